//! What is wrong with a config, as one message for the person who wrote it. Pure data; never names a source file.
use super::hint;
use super::json::{Issue, Problem};
use super::shown::{join, printable};

/// The first thing that is wrong with a config. Its text names the place, the value, the rule and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is no JSON at all.
    #[error("the config is not valid JSON: {problem} at line {line}, column {column}. Correct the text there.")]
    Syntax {
        /// What the parser met.
        problem: String,
        /// Line of the text, from 1.
        line: usize,
        /// Column in the line, from 1; 0 at the very start.
        column: usize,
    },
    /// The text is longer than any config.
    #[error("the config has {bytes} bytes, but at most {limit} are read. Is it the right file?")]
    TooLarge {
        /// Length of the text.
        bytes: usize,
        /// The longest text that is read.
        limit: usize,
    },
    /// A key that nobody knows.
    #[error("{path} is not a known key. {hint}")]
    UnknownKey {
        /// The key with its place.
        path: String,
        /// The nearest key, or where the key belongs, or all keys.
        hint: String,
    },
    /// A key stands twice in one object.
    #[error("{path} is given twice, and only one of them could count. Remove one.")]
    DuplicateKey {
        /// The key with its place.
        path: String,
    },
    /// A required key is not there.
    #[error("{path} is missing, but it is required. Add it, for example {example}.")]
    MissingKey {
        /// The key with its place.
        path: String,
        /// The key with a value, as JSON.
        example: String,
    },
    /// A value has the wrong type, or is none of the words that are allowed.
    #[error("{path} is {found}, but must be {expected}.")]
    WrongType {
        /// Place of the value; `the config` for the whole.
        path: String,
        /// The value or its type.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A value breaks a rule.
    #[error("{path} is {value}, but {rule}. {remedy}.")]
    Rule {
        /// Place of the value.
        path: String,
        /// The value.
        value: String,
        /// The rule that it breaks.
        rule: String,
        /// What to do about it.
        remedy: String,
    },
    /// The key is right, but coracle cannot do it yet.
    #[error("{path} is {value}, but coracle {lack} yet. {remedy}.")]
    Unsupported {
        /// Place of the value.
        path: String,
        /// The value.
        value: String,
        /// What coracle does not do.
        lack: &'static str,
        /// What to do about it.
        remedy: String,
    },
}

impl ConfigError {
    /// A broken rule. `rule` completes "but …", `remedy` is a sentence without its full stop.
    pub(super) fn rule(
        path: impl Into<String>,
        value: impl Into<String>,
        rule: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Rule {
            path: path.into(),
            value: value.into(),
            rule: rule.into(),
            remedy: remedy.into(),
        }
    }
}

impl From<serde_json::Error> for ConfigError {
    fn from(error: serde_json::Error) -> Self {
        // The parser appends the place to its text, which we show in our own way.
        let text = error.to_string();
        let problem = text.rfind(" at line ").and_then(|end| text.get(..end)).unwrap_or(&text);
        Self::Syntax {
            problem: problem.to_owned(),
            line: error.line(),
            column: error.column(),
        }
    }
}

impl From<Issue> for ConfigError {
    fn from(issue: Issue) -> Self {
        let at = issue.path();
        match issue.problem {
            Problem::UnknownKey { key, known } => Self::UnknownKey {
                path: join(&at, &printable(&key)),
                hint: hint::for_unknown_key(&key, &at, known),
            },
            Problem::DuplicateKey(key) => Self::DuplicateKey {
                path: join(&at, &printable(&key)),
            },
            Problem::MissingKey(key) => Self::MissingKey {
                path: join(&at, key),
                example: hint::example(&at, key),
            },
            Problem::WrongType { found, expected } => Self::WrongType {
                expected: if expected == "u64" {
                    hint::whole_number(&at)
                } else {
                    expected
                },
                path: if at.is_empty() { "the config".to_owned() } else { at },
                found,
            },
        }
    }
}
