//! What is wrong with a configuration, said so that it can be mended at once.
//!
//! A [`Problem`] knows the facts; a [`Finding`] is how it is told, with file, line and mend. Warnings of
//! `batchwise check` are told as findings, too, so that both come out in one form.

use std::fmt;

use super::keys::Table;

/// Longest piece of the user's own text that a message repeats, in characters.
const QUOTED_LENGTH_MAX: usize = 80;
/// Similarity from which a name counts as a slip of the pen instead of another word.
const SIMILARITY_MIN: f64 = 0.55;

/// Names of other servers and proxies for what stands here under another name.
const NAMES_ELSEWHERE: [(&str, &str); 13] = [
    ("max_queue_delay_microseconds", "max_queue_delay"),
    ("batch_timeout", "max_queue_delay"),
    ("batch_timeout_micros", "max_queue_delay"),
    ("batch_wait_timeout_s", "max_queue_delay"),
    ("max_latency_ms", "max_queue_delay"),
    ("max_batch_time", "max_queue_delay"),
    ("default_priority_level", "default_priority"),
    ("url", "instances"),
    ("urls", "instances"),
    ("address", "instances"),
    ("backends", "instances"),
    ("endpoints", "instances"),
    ("upstreams", "instances"),
];

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// What the system said.
        reason: String,
    },
    /// The text is not TOML.
    #[error("not valid TOML: {reason}")]
    Syntax {
        /// What the parser said.
        reason: String,
    },
    /// A key that has no meaning where it stands.
    #[error("unknown key `{key}` {place}")]
    UnknownKey {
        /// As it was written.
        key: String,
        /// Where it stands.
        place: &'static str,
        /// The keys that have a meaning there, the nearest first.
        known: Vec<&'static str>,
        /// What was probably meant.
        meant: Meant,
    },
    /// A table of the format that this version does not act upon.
    #[error("{header} is not supported by this version")]
    UnsupportedTable {
        /// As it is written in the file.
        header: String,
    },
    /// A required key, table or list entry is not there.
    #[error("{what} is missing {place}")]
    Missing {
        /// The key, in backticks, or the table.
        what: String,
        /// Where it should stand.
        place: &'static str,
        /// What to write.
        expected: String,
    },
    /// A value of another type.
    #[error("`{key}` {place} is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// Where it stands.
        place: &'static str,
        /// The type that it has, with its article.
        found: &'static str,
        /// What to write.
        expected: String,
    },
    /// A value of the right type that cannot be used.
    #[error("`{key}` {place} is {found}: {reason}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// Where it stands.
        place: &'static str,
        /// The value as it was written.
        found: String,
        /// Why it cannot be used.
        reason: String,
        /// What to write.
        expected: String,
    },
    /// A value outside its bounds.
    #[error("`{key}` {place} is {found}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// Where it stands.
        place: &'static str,
        /// The value as it was written.
        found: String,
        /// The smallest value.
        minimum: String,
        /// The largest value.
        maximum: String,
    },
    /// A name or an address that was given before.
    #[error("{what} {found} {place} was given before, in line {first_line}")]
    Duplicate {
        /// What is there twice.
        what: &'static str,
        /// Its value.
        found: String,
        /// Where it stands.
        place: &'static str,
        /// Line of the first one.
        first_line: usize,
        /// What to do.
        expected: String,
    },
    /// Two values that do not go together.
    #[error("`{key}` {place} is {found}, {conflict}")]
    Conflict {
        /// The key.
        key: &'static str,
        /// Where it stands.
        place: &'static str,
        /// Its value.
        found: String,
        /// With what it does not go together, such as "above `priority_levels` (3)".
        conflict: String,
        /// What to write.
        expected: String,
    },
}

/// What the writer of an unknown key probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A key of the same table.
    Key(&'static str),
    /// The same key in another table.
    Elsewhere(&'static str),
    /// Nothing that is near.
    Unclear,
}

impl Problem {
    /// An unknown key `key` in `table`, with what was probably meant.
    pub(super) fn unknown_key(key: &str, table: &'static Table) -> Self {
        let mut known: Vec<&'static str> = table.names().collect();
        let similarity = |name: &str| strsim::normalized_damerau_levenshtein(name, key);
        known.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)));
        let elsewhere = super::keys::ROOT.all().into_iter().find(|other| other.key(key).is_some());
        let alias =
            NAMES_ELSEWHERE.iter().find(|(name, ours)| *name == key && known.contains(ours));
        let meant = match (alias, known.first(), elsewhere) {
            (Some((_, ours)), _, _) => Meant::Key(ours),
            (None, _, Some(other)) => Meant::Elsewhere(other.place),
            (None, Some(nearest), None) if similarity(nearest) >= SIMILARITY_MIN => {
                Meant::Key(nearest)
            }
            _ => Meant::Unclear,
        };
        Self::UnknownKey { key: clip(key), place: table.place, known, meant }
    }

    /// What to do about it, as one clause.
    #[must_use]
    pub fn mend(&self) -> String {
        match self {
            Self::Unreadable { .. } => {
                "check the path, the permissions, and that it is UTF-8 text".into()
            }
            Self::Syntax { .. } => "see https://toml.io for the syntax".into(),
            Self::UnknownKey { known, meant, .. } => match meant {
                Meant::Key(name) => format!("did you mean `{name}`?"),
                Meant::Elsewhere(place) => format!("it belongs {place}"),
                Meant::Unclear => mend_by_list(known),
            },
            Self::UnsupportedTable { .. } => "remove it: nothing in it would take effect".into(),
            Self::Missing { expected, .. }
            | Self::WrongType { expected, .. }
            | Self::BadValue { expected, .. } => format!("write {expected}"),
            Self::OutOfRange { minimum, maximum, .. } => {
                format!("it must be {minimum} to {maximum}")
            }
            Self::Duplicate { expected, .. } | Self::Conflict { expected, .. } => expected.clone(),
        }
    }

    /// The name of the key or table that it is about, where there is one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Unreadable { .. } | Self::Syntax { .. } => None,
            Self::UnknownKey { key, .. } | Self::WrongType { key, .. } => Some(key),
            Self::UnsupportedTable { header } => Some(header),
            Self::Missing { what, .. } => Some(what.trim_matches('`')),
            Self::BadValue { key, .. }
            | Self::OutOfRange { key, .. }
            | Self::Conflict { key, .. } => Some(key),
            Self::Duplicate { what, .. } => Some(what),
        }
    }
}

fn mend_by_list(known: &[&str]) -> String {
    let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("the valid keys, the nearest first, are {list}")
}

/// The user's text, fit to stand in a one-line message.
pub(super) fn clip(text: &str) -> String {
    let mut clipped: String =
        text.chars().take(QUOTED_LENGTH_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_LENGTH_MAX).is_some() {
        clipped.push_str("...");
    }
    clipped
}

/// The same, in quotes.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", clip(text))
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration works, but not as production needs it.
    Warning,
    /// The configuration cannot be used.
    Error,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing to tell about a configuration, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as it was named, or what stands in its place.
    pub file: String,
    /// Line in the file, from 1; `None` when it is about no single line.
    pub line: Option<usize>,
    /// How serious it is.
    pub severity: Severity,
    /// The key or table, where there is one.
    pub key: Option<String>,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Finding {
    /// `FILE:LINE: [warning: ]MESSAGE; MEND`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        let severity = if self.severity == Severity::Warning { "warning: " } else { "" };
        write!(formatter, ": {severity}{}; {}", self.message, self.mend)
    }
}

/// Why a configuration is refused: everything that is wrong with it, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// The problems, each with its line (from 1) where it has one; never empty.
    pub problems: Vec<(Option<usize>, Problem)>,
}

impl ConfigError {
    /// The problems in the form of [`Finding`]s.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |(line, problem): &(Option<usize>, Problem)| Finding {
            file: self.file.clone(),
            line: *line,
            severity: Severity::Error,
            key: problem.key().map(str::to_owned),
            message: problem.to_string(),
            mend: problem.mend(),
        };
        self.problems.iter().map(finding).collect()
    }
}

impl fmt::Display for ConfigError {
    /// One line for each problem.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings().iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            finding.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
