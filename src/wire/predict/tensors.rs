//! Instances to tensors and back, for models that speak tensors.

use bytes::Bytes;
use serde::Deserialize as _;
use smallvec::SmallVec;

use crate::call::{Fault, FaultKind, InferAnswer, InferRequest, ItemsRequest};
use crate::tensor::{Rope, Shape, Tensor};
use crate::wire::DeclaredInput;
use crate::wire::fields::Fields;
use crate::wire::json::elements_in::{ElementError, Strings, measure, read_elements};
use crate::wire::json::elements_out::RowWriter;

/// The inputs of a model that declares `declared`, from a v1 request.
///
/// With one input each instance is a row of it: a number or a nested list (or an object that names
/// the input). With several each instance is an object from input name to row.
///
/// # Errors
/// When an instance does not fit; the fault names the instance, the input and the element.
pub fn instances_to_request(
    request: &ItemsRequest,
    declared: &[DeclaredInput<'_>],
) -> Result<InferRequest, Fault> {
    if !request.options.is_empty() {
        refuse_options(&request.options)?;
    }
    let mut columns: Vec<_> = declared.iter().map(|input| Column::new(*input)).collect();
    for (index, item) in request.items.iter().enumerate() {
        let text =
            std::str::from_utf8(item).map_err(|_| wrong_instance(index, "it is not UTF-8"))?;
        match columns.as_mut_slice() {
            [] => {
                let message = "the model has not declared its inputs; use POST /v2/models/MODEL/\
                               infer, where the request names them";
                return Err(Fault::invalid("instances", message));
            }
            [only] if !names_input(text, only.input.name) => only.push(index, text)?,
            several => push_object(index, text, several)?,
        }
    }
    let rows = request.items.len() as u64;
    let inputs = columns.into_iter().map(|column| column.finish(rows)).collect::<Result<_, _>>()?;
    Ok(InferRequest { inputs, ..InferRequest::default() })
}

/// A v1 reply from a model's outputs: a list of rows, or of objects when there are several outputs.
///
/// # Errors
/// When an output has not `rows` rows, or JSON cannot write it.
pub fn outputs_to_reply(answer: &InferAnswer, rows: u64) -> Result<Rope, Fault> {
    if let Some(odd) = answer.outputs.iter().find(|output| output.shape().rows() != Some(rows)) {
        let (name, shape) = (odd.name(), odd.shape());
        let message = format!(
            "output '{name}' has shape {shape} for {rows} instances, so it cannot be told whose \
             row is whose; use POST /v2/models/MODEL/infer"
        );
        return Err(Fault::invalid("instances", message));
    }
    let mut writers: Vec<_> = answer
        .outputs
        .iter()
        .map(|output| (output.name(), RowWriter::new(output, Strings::OrBase64)))
        .collect();
    let mut body = b"{\"predictions\":[".to_vec();
    for row in 0..rows {
        if row > 0 {
            body.push(b',');
        }
        write_prediction(&mut body, &mut writers)?;
    }
    body.extend_from_slice(b"]}");
    Ok(Rope::from(Bytes::from(body)))
}

fn write_prediction(
    body: &mut Vec<u8>,
    writers: &mut [(&str, RowWriter<'_>)],
) -> Result<(), Fault> {
    let row = |body: &mut Vec<u8>, name: &str, writer: &mut RowWriter<'_>| {
        writer.write_row(body).map_err(|error| {
            let message = format!(
                "output '{name}': {error}; use POST /v2/models/MODEL/infer with \
                                   binary outputs"
            );
            Fault::new(FaultKind::InvalidRequest, message)
        })
    };
    if let [(name, only)] = writers {
        return row(body, name, only);
    }
    body.push(b'{');
    for (index, (name, writer)) in writers.iter_mut().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        // A string into memory: nothing that can fail.
        drop(serde_json::to_writer(&mut *body, name));
        body.push(b':');
        row(body, name, writer)?;
    }
    body.push(b'}');
    Ok(())
}

/// One input, gathered row by row.
struct Column<'a> {
    input: DeclaredInput<'a>,
    /// The extents of a row, known from the first.
    row: Option<SmallVec<[u64; 4]>>,
    data: Vec<u8>,
}

impl<'a> Column<'a> {
    fn new(input: DeclaredInput<'a>) -> Self {
        Self { input, row: None, data: Vec::new() }
    }

    fn push(&mut self, index: usize, text: &str) -> Result<(), Fault> {
        if self.row.is_none() {
            let row = row_extents(&self.input, text).map_err(|why| self.wrong(index, &why))?;
            self.row = Some(row);
        }
        let row = self.row.as_deref().unwrap_or_default();
        let datatype = self.input.datatype;
        read_elements(&mut self.data, text, datatype, row, Strings::OrBase64)
            .map_err(|error| self.wrong(index, &explain(&error)))
    }

    fn wrong(&self, index: usize, why: &str) -> Fault {
        let DeclaredInput { name, datatype, shape } = &self.input;
        wrong_instance(index, &format!("input '{name}' ({datatype}, shape {shape:?}): {why}"))
    }

    fn finish(self, rows: u64) -> Result<Tensor, Fault> {
        let extents = std::iter::once(rows).chain(self.row.unwrap_or_default());
        // What was declared had a sign, what was measured is no longer than its text.
        let axes: SmallVec<[i64; 4]> =
            extents.map(|extent| i64::try_from(extent).unwrap_or(i64::MAX)).collect();
        let fixed = self.input.shape.first().and_then(|&extent| u64::try_from(extent).ok());
        if let Some(fixed) = fixed.filter(|&fixed| fixed != rows) {
            let name = self.input.name;
            let message = format!("input '{name}' takes exactly {fixed} instances, got {rows}");
            return Err(Fault::invalid("instances", message));
        }
        let shape = Shape::from_wire(&axes).map_err(|error| {
            Fault::invalid("instances", format!("input '{}': {error}", self.input.name))
        })?;
        Tensor::new(self.input.name, self.input.datatype, shape, self.data.into())
            .map_err(|error| Fault::invalid("instances", error.to_string()))
    }
}

/// The extents of a row: as declared, with those that are open taken from the first instance.
fn row_extents(input: &DeclaredInput<'_>, text: &str) -> Result<SmallVec<[u64; 4]>, String> {
    let declared = input.shape.get(1..).unwrap_or_default();
    if let Some(fixed) = declared.iter().map(|&extent| u64::try_from(extent).ok()).collect() {
        return Ok(fixed);
    }
    let found = measure(text);
    let fits = found.len() == declared.len()
        && found.iter().zip(declared).all(|(&found, &extent)| {
            u64::try_from(extent).is_ok_and(|it| it == found) || extent < 0
        });
    if fits { Ok(found) } else { Err(format!("a row of it cannot have the shape {found:?}")) }
}

/// Whether an instance is an object that names the model's only input.
fn names_input(text: &str, name: &str) -> bool {
    text.starts_with('{')
        && Fields::parse(text.as_bytes()).is_ok_and(|fields| fields.get(name).is_some())
}

fn push_object(index: usize, text: &str, columns: &mut [Column<'_>]) -> Result<(), Fault> {
    let fields = Fields::parse(text.as_bytes()).map_err(|_| {
        let names: Vec<_> = columns.iter().map(|column| column.input.name).collect();
        let names = names.join(", ");
        wrong_instance(index, &format!("it must be an object with each of the inputs {names}"))
    })?;
    if let Some(name) = fields.names().find(|name| columns.iter().all(|it| it.input.name != *name))
    {
        return Err(wrong_instance(index, &format!("the model has no input '{name}'")));
    }
    for column in columns {
        let name = column.input.name;
        let value = fields
            .get(name)
            .ok_or_else(|| wrong_instance(index, &format!("input '{name}' is missing")))?;
        column.push(index, value)?;
    }
    Ok(())
}

/// A signature is a notion of TensorFlow that tensors do not have; anything else is unknown.
fn refuse_options(options: &Bytes) -> Result<(), Fault> {
    let text = [b"{".as_slice(), options, b"}"].concat();
    let fields = Fields::parse(&text)
        .map_err(|error| Fault::invalid("body", format!("the body is malformed: {error}")))?;
    let mut names = fields.names().filter(|name| {
        let default_signature = *name == "signature_name"
            && fields.get(name).is_none_or(|text| {
                let mut text = serde_json::Deserializer::from_str(text);
                String::deserialize(&mut text).is_ok_and(|it| it == "serving_default")
            });
        !default_signature
    });
    match names.next() {
        None => Ok(()),
        Some(name) => Err(Fault::invalid(
            name.to_owned(),
            format!("field '{name}' has no meaning for this model; send only 'instances'"),
        )),
    }
}

fn explain(error: &ElementError) -> String {
    match error {
        ElementError::NeedsBinary(datatype) => {
            format!("{datatype} cannot be sent as JSON; use POST /v2/models/MODEL/infer")
        }
        other => other.to_string(),
    }
}

fn wrong_instance(index: usize, why: &str) -> Fault {
    Fault::invalid(format!("instances[{index}]"), format!("instances[{index}]: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::parse_request;
    use super::*;
    use crate::tensor::DataType;

    const FLOATS: DeclaredInput<'_> =
        DeclaredInput { name: "x", datatype: DataType::Fp32, shape: &[-1, 2] };
    const TEXT: DeclaredInput<'_> =
        DeclaredInput { name: "s", datatype: DataType::Bytes, shape: &[-1] };

    fn convert(body: &'static str, declared: &[DeclaredInput<'_>]) -> Result<InferRequest, String> {
        let request = parse_request(Bytes::from_static(body.as_bytes())).unwrap();
        instances_to_request(&request, declared).map_err(|fault| fault.to_string())
    }

    fn floats(values: &[f32]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn one_input_takes_bare_rows_or_objects() {
        for body in [
            r#"{"instances":[[1,2],[3,4],[5,6]],"signature_name":"serving_default"}"#,
            r#"{"instances":[{"x":[1,2]},[3,4],{"x":[5,6]}]}"#,
        ] {
            let request = convert(body, &[FLOATS]).unwrap();
            assert_eq!(request.inputs[0].shape().axes(), [3, 2]);
            assert_eq!(request.inputs[0].data().to_bytes(), floats(&[1., 2., 3., 4., 5., 6.]));
        }
        let scalars = DeclaredInput { shape: &[-1], ..FLOATS };
        let request = convert(r#"{"instances":[1,2]}"#, &[scalars]).unwrap();
        assert_eq!(request.inputs[0].shape().axes(), [2]);
        let open = DeclaredInput { shape: &[-1, -1, 2], ..FLOATS };
        let request = convert(r#"{"instances":[[[1,2],[3,4]]]}"#, &[open]).unwrap();
        assert_eq!(request.inputs[0].shape().axes(), [1, 2, 2]);
    }

    #[test]
    fn several_inputs_take_objects() {
        let body = r#"{"instances":[{"s":"a","x":[1,2]},{"x":[3,4],"s":{"b64":"/w=="}}]}"#;
        let request = convert(body, &[FLOATS, TEXT]).unwrap();
        assert_eq!(request.inputs[0].data().to_bytes(), floats(&[1., 2., 3., 4.]));
        assert_eq!(request.inputs[1].data().to_bytes(), b"\x01\0\0\0a\x01\0\0\0\xff".as_slice());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |body, declared: &[DeclaredInput<'_>]| convert(body, declared).unwrap_err();
        let text = message(r#"{"instances":[[1,2],[3,"a"]]}"#, &[FLOATS]);
        assert!(text.contains("instances[1]") && text.contains("data[1] is \"a\""), "{text}");
        assert!(message(r#"{"instances":[[1,2],[3]]}"#, &[FLOATS]).contains("instances[1]"));
        let both = [FLOATS, TEXT];
        assert!(message(r#"{"instances":[{"x":[1,2]}]}"#, &both).contains("'s' is missing"));
        let unknown = r#"{"instances":[{"x":[1,2],"s":"","y":1}]}"#;
        assert!(message(unknown, &both).contains("no input 'y'"));
        assert!(message(r#"{"instances":[5]}"#, &both).contains("x, s"));
        assert!(message(r#"{"instances":[5]}"#, &[]).contains("not declared"));
        let open = DeclaredInput { shape: &[-1, -1, 2], ..FLOATS };
        assert!(message(r#"{"instances":[[[1,2,3]]]}"#, &[open]).contains("[1, 3]"));
        let fixed = DeclaredInput { shape: &[2, 2], ..FLOATS };
        assert!(message(r#"{"instances":[[1,2]]}"#, &[fixed]).contains("exactly 2"));
        let huge = DeclaredInput { shape: &[-1, 1 << 32, 1 << 32], ..FLOATS };
        assert!(message(r#"{"instances":[[]]}"#, &[huge]).contains("holds 0 elements"));
        let empty = DeclaredInput { shape: &[-1, 0, 1 << 32, 1 << 32], ..FLOATS };
        assert!(message(r#"{"instances":[[]]}"#, &[empty]).contains("more elements than"));
        let option = r#"{"instances":[[1,2]],"beam":4}"#;
        assert!(message(option, &[FLOATS]).contains("'beam'"));
    }

    #[test]
    fn outputs_become_rows_or_objects() {
        let output = |name: &str, datatype, axes: &[u64], data: &[u8]| {
            Tensor::new(name, datatype, Shape::from(axes), data.to_vec().into()).unwrap()
        };
        let one = output("y", DataType::Fp32, &[2, 1], &floats(&[0.5, 2.0]));
        let mut answer = InferAnswer { outputs: vec![one], ..InferAnswer::default() };
        let text = |answer: &InferAnswer| outputs_to_reply(answer, 2).map(|it| it.to_bytes());
        assert_eq!(text(&answer).unwrap(), r#"{"predictions":[[0.5],[2.0]]}"#);
        answer.outputs.push(output("z", DataType::Bytes, &[2], b"\x01\0\0\0a\x01\0\0\0\xff"));
        assert_eq!(
            text(&answer).unwrap(),
            r#"{"predictions":[{"y":[0.5],"z":"a"},{"y":[2.0],"z":{"b64":"/w=="}}]}"#
        );
        assert!(outputs_to_reply(&answer, 3).unwrap_err().message.contains("'y'"));
    }
}
