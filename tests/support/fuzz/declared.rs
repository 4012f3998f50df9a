//! Inputs that a model declares, written as `name DATATYPE extent extent; name DATATYPE`.

use batchwise::tensor::DataType;
use batchwise::wire::DeclaredInput;

/// An input that a model declares.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    name: String,
    datatype: DataType,
    shape: Vec<i64>,
}

/// What a line declares; an entry that is none is left out, as are more of one name.
pub(super) fn declared(line: &str) -> Vec<Declared> {
    let mut all: Vec<Declared> = Vec::new();
    for entry in line.split(';').take(4) {
        let mut words = entry.split_whitespace();
        let (Some(name), Some(datatype)) = (words.next(), words.next()) else { continue };
        let Ok(datatype) = datatype.parse() else { continue };
        if all.iter().any(|known| known.name == name) {
            continue;
        }
        let shape = words.filter_map(|extent| extent.parse().ok()).collect();
        all.push(Declared { name: name.to_owned(), datatype, shape });
    }
    all
}

impl Declared {
    pub(super) fn as_input(&self) -> DeclaredInput<'_> {
        DeclaredInput { name: &self.name, datatype: self.datatype, shape: &self.shape }
    }
}
