//! What the file says about each key, and the record of its problems.

use toml::Spanned;
use toml::de::DeTable;

use super::explain::{Problem, clip};

/// What the file says about a key.
///
/// `Malformed` was reported already; rules between keys leave it out, so that one slip is told once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Written<T> {
    #[default]
    Absent,
    Malformed,
    Given(T, usize),
}

impl<T> Written<T> {
    /// The value, if the file has a good one.
    pub(super) fn value(&self) -> Option<&T> {
        match self {
            Self::Given(value, _) => Some(value),
            _ => None,
        }
    }

    /// The line of the key, if the file has a good value.
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::Given(_, line) => Some(*line),
            _ => None,
        }
    }

    pub(super) fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.value().cloned().unwrap_or(default)
    }

    pub(super) fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed)
    }
}

/// A number or duration, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AutoOr<T> {
    Auto,
    Value(T),
}

/// What goes along with reading: where lines begin, and the problems so far.
#[derive(Debug)]
pub(super) struct Reading {
    line_starts: Vec<usize>,
    problems: Vec<(Option<usize>, Problem)>,
}

impl Reading {
    pub(super) fn new(text: &str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            problems: Vec::new(),
        }
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn report(&mut self, line: Option<usize>, problem: Problem) {
        self.problems.push((line, problem));
    }

    /// The problems in the order of the file; those of no line come first.
    pub(super) fn into_problems(mut self) -> Vec<(Option<usize>, Problem)> {
        self.problems.sort_by_key(|(line, _)| *line);
        self.problems
    }
}

/// Parses the text as TOML; every syntax error is reported.
pub(super) fn parse_toml<'t>(text: &'t str, reading: &mut Reading) -> Option<Spanned<DeTable<'t>>> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(tree);
    }
    for error in errors {
        let line = error.span().map(|span| reading.line_at(span.start));
        reading.report(line, Problem::Syntax { reason: clip(error.message()) });
    }
    None
}
