//! Reads typed values out of a TOML tree, collecting every problem instead of stopping at the first.

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::explain::{Problem, clip, quote};
use super::keys::{Key, Kind, Table};
use super::units;
use super::value::{Fault, read_duration, read_integer, type_of, within};
use super::written::{AutoOr, Reading, Written};

/// Reads the keys of one table of the file.
#[derive(Debug)]
pub(super) struct TableReader<'t, 'r> {
    pub(super) line: usize,
    table: &'static Table,
    entries: &'t DeTable<'t>,
    reading: &'r mut Reading,
}

impl<'t, 'r> TableReader<'t, 'r> {
    /// Starts a table and reports every entry that has no meaning in it.
    pub(super) fn open(
        table: &'static Table,
        entries: &'t DeTable<'t>,
        line: usize,
        reading: &'r mut Reading,
    ) -> Self {
        for key in entries.keys() {
            let name = key.get_ref().as_ref();
            if table.names().any(|known| known == name) {
                continue;
            }
            let line = reading.line_at(key.span().start);
            let problem = match table.unsupported.iter().find(|known| **known == name) {
                Some(known) => Problem::UnsupportedTable { header: header(table, known) },
                None => Problem::unknown_key(name, table),
            };
            reading.report(Some(line), problem);
        }
        Self { line, table, entries, reading }
    }

    /// Reads the table `name` inside this one, if it is there and is a table.
    pub(super) fn table<'s>(&'s mut self, name: &str) -> Option<TableReader<'t, 's>> {
        let table = self.table.tables.iter().find(|table| table.name == name)?;
        let (key, value) = self.entries.get_key_value(name)?;
        let line = self.reading.line_at(key.span().start);
        match value.get_ref() {
            DeValue::Table(entries) => Some(TableReader::open(table, entries, line, self.reading)),
            other => {
                let expected = format!("a table: [{}]", table.path);
                self.wrong_type(name, line, other, expected);
                None
            }
        }
    }

    /// Reads each table of the list `name`; `None` when the list itself is malformed.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(TableReader<'t, '_>) -> T,
    ) -> Option<Vec<T>> {
        let Some(table) = self.table.tables.iter().find(|table| table.name == name) else {
            return Some(Vec::new());
        };
        let Some((key, value)) = self.entries.get_key_value(name) else {
            return Some(Vec::new());
        };
        let expected = format!("[[{}]] in double brackets, once for each", table.path);
        let line = self.reading.line_at(key.span().start);
        let DeValue::Array(elements) = value.get_ref() else {
            self.wrong_type(name, line, value.get_ref(), expected);
            return None;
        };
        let mut all = Vec::with_capacity(elements.len());
        for element in elements {
            let line = self.reading.line_at(element.span().start);
            match element.get_ref() {
                DeValue::Table(entries) => {
                    all.push(read(TableReader::open(table, entries, line, self.reading)));
                }
                other => self.wrong_type(name, line, other, expected.clone()),
            }
        }
        Some(all)
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &str) -> Written<String> {
        self.read(name, |key, value| match value {
            DeValue::String(text) if text.trim().is_empty() => {
                Err(Fault::bad(key, text, "it is empty"))
            }
            DeValue::String(text) => Ok(text.clone().into_owned()),
            _ => Err(Fault::Type),
        })
    }

    /// One of the words of the key.
    pub(super) fn choice(&mut self, name: &str) -> Written<String> {
        self.read(name, |key, value| match (key.kind, value) {
            (Kind::Choice(words), DeValue::String(text)) => {
                let nearest = words.iter().find(|word| text.eq_ignore_ascii_case(word));
                match nearest {
                    Some(word) if *word == text.as_ref() => Ok((*word).to_owned()),
                    Some(word) => Err(Fault::bad(key, text, &format!("it is written \"{word}\""))),
                    None => Err(Fault::bad(key, text, "there is no such value")),
                }
            }
            _ => Err(Fault::Type),
        })
    }

    /// A list of texts, each with its line.
    pub(super) fn text_list(&mut self, name: &'static str) -> Written<Vec<(String, usize)>> {
        let list = self.read(name, |_, value| match value {
            DeValue::Array(elements) => Ok(elements),
            _ => Err(Fault::Type),
        });
        let Written::Given(elements, line) = list else {
            return if list.is_malformed() { Written::Malformed } else { Written::Absent };
        };
        let mut texts = Vec::with_capacity(elements.len());
        for element in elements {
            let line = self.reading.line_at(element.span().start);
            match element.get_ref() {
                DeValue::String(text) => texts.push((text.clone().into_owned(), line)),
                other => {
                    let expected = "only texts in quotes into the list".to_owned();
                    self.wrong_type(name, line, other, expected);
                }
            }
        }
        // What is good is still looked at; only a list without any good entry says nothing.
        if texts.is_empty() && !elements.is_empty() {
            Written::Malformed
        } else {
            Written::Given(texts, line)
        }
    }

    /// An IP address with a port.
    pub(super) fn address(&mut self, name: &str) -> Written<SocketAddr> {
        self.read(name, |key, value| match value {
            DeValue::String(text) => {
                text.parse().map_err(|_| Fault::bad(key, text, "it is not an IP address and port"))
            }
            _ => Err(Fault::Type),
        })
    }

    /// A duration.
    pub(super) fn duration(&mut self, name: &str) -> Written<Duration> {
        self.read(name, read_duration)
    }

    /// A duration or `"auto"`.
    pub(super) fn duration_or_auto(&mut self, name: &str) -> Written<AutoOr<Duration>> {
        self.read(name, |key, value| match value {
            DeValue::String(text) if text == "auto" => Ok(AutoOr::Auto),
            _ => read_duration(key, value).map(AutoOr::Value),
        })
    }

    /// A number of bytes.
    pub(super) fn size(&mut self, name: &str) -> Written<u64> {
        self.read(name, |key, value| match (key.kind, value) {
            (Kind::Size(minimum, maximum), DeValue::String(text)) => {
                let bytes = units::parse_size(text)
                    .map_err(|error| Fault::bad(key, text, &error.to_string()))?;
                let found = || quote(text);
                within(bytes, minimum, maximum, found, units::format_size)
            }
            (Kind::Size(minimum, maximum), DeValue::Integer(_)) => {
                read_integer(value, minimum, maximum)
            }
            _ => Err(Fault::Type),
        })
    }

    /// A whole number. `T` must hold the key's bounds.
    pub(super) fn integer<T: TryFrom<u64>>(&mut self, name: &str) -> Written<T> {
        self.read(name, |key, value| match key.kind {
            Kind::Integer(minimum, maximum) => read_integer(value, minimum, maximum),
            _ => Err(Fault::Type),
        })
    }

    /// A whole number or `"auto"`. `T` must hold the key's bounds.
    pub(super) fn integer_or_auto<T: TryFrom<u64>>(&mut self, name: &str) -> Written<AutoOr<T>> {
        self.read(name, |key, value| match (key.kind, value) {
            (_, DeValue::String(text)) if text == "auto" => Ok(AutoOr::Auto),
            (Kind::IntegerOrAuto(minimum, maximum), _) => {
                read_integer(value, minimum, maximum).map(AutoOr::Value)
            }
            _ => Err(Fault::Type),
        })
    }

    /// A number above 0, at most 1.
    pub(super) fn ratio(&mut self, name: &str) -> Written<f64> {
        self.read(name, |key, value| {
            let text = match value {
                DeValue::Float(float) => float.as_str(),
                DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
                _ => return Err(Fault::Type),
            };
            match text.parse::<f64>() {
                Ok(ratio) if ratio > 0.0 && ratio <= 1.0 => Ok(ratio),
                _ => Err(Fault::Bad {
                    found: clip(text),
                    reason: "it is not a ratio".into(),
                    expected: key.kind.expected(),
                }),
            }
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, name: &str) -> Written<bool> {
        self.read(name, |_, value| value.as_bool().ok_or(Fault::Type))
    }

    fn read<T>(
        &mut self,
        name: &str,
        convert: impl FnOnce(&Key, &'t DeValue<'t>) -> Result<T, Fault>,
    ) -> Written<T> {
        let Some(key) = self.table.key(name) else { return Written::Absent };
        let Some((written, value)) = self.entries.get_key_value(name) else {
            if key.required {
                let what = format!("`{name}`");
                let expected = format!("`{name} = ` and {}", key.kind.expected());
                let place = self.table.place;
                self.reading.report(Some(self.line), Problem::Missing { what, place, expected });
                return Written::Malformed;
            }
            return Written::Absent;
        };
        let line = self.reading.line_at(written.span().start);
        let fault = match convert(key, value.get_ref()) {
            Ok(converted) => return Written::Given(converted, line),
            Err(fault) => fault,
        };
        let (key, place) = (key.name, self.table.place);
        let problem = match fault {
            Fault::Type => {
                let expected =
                    self.table.key(name).map_or_else(String::new, |key| key.kind.expected());
                self.wrong_type(name, line, value.get_ref(), expected);
                return Written::Malformed;
            }
            Fault::Bad { found, reason, expected } => {
                Problem::BadValue { key, place, found, reason, expected }
            }
            Fault::Range { found, minimum, maximum } => {
                Problem::OutOfRange { key, place, found, minimum, maximum }
            }
        };
        self.reading.report(Some(line), problem);
        Written::Malformed
    }

    fn wrong_type(&mut self, name: &str, line: usize, value: &DeValue<'_>, expected: String) {
        let key = name.to_owned();
        let found = type_of(value);
        let place = self.table.place;
        self.reading.report(Some(line), Problem::WrongType { key, place, found, expected });
    }
}

/// How the unsupported table `name` inside `table` is written in the file.
fn header(table: &Table, name: &str) -> String {
    match (table.path, name) {
        ("", "tenant") => "[[tenant]]".to_owned(),
        ("", _) => format!("[{name}]"),
        (path, _) => format!("[{path}.{name}]"),
    }
}
