//! Mistakes in a config, described so that the operator can fix them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_saphyr::{Error, Location};

pub(crate) use self::found::Found;
pub(crate) use self::source::Source;

mod found;
mod keys;
mod locations;
mod repair;
mod source;
mod variables;

/// All mistakes, one per line. Never empty.
#[derive(Debug)]
pub struct Mistakes(pub Vec<Mistake>);

/// One mistake and its place.
#[derive(Debug)]
pub struct Mistake {
    file: Option<PathBuf>,
    line: u64,
    column: u64,
    text: String,
}

impl Mistake {
    /// `line` and `column` count from 1; 0 if the place is unknown.
    pub(crate) fn at(file: Option<&Path>, (line, column): (u64, u64), text: String) -> Self {
        Self { file: file.map(Path::to_owned), line, column, text }
    }

    /// What the parser found in `text`. The parser's own rendering shows lines of the file, which may contain a token, so only
    /// its message is used.
    fn of_form(text: &str, error: &Error) -> String {
        let error = error.without_snippet();
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let key = key_before(text, location);
        let what = match error {
            Error::SerdeUnknownField { field, expected, .. } => unknown("key", field, expected),
            Error::SerdeUnknownVariant { variant, expected, .. } => {
                unknown(if key.is_some() { "value" } else { "key" }, variant, expected)
            }
            Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
            Error::SerdeInvalidType { expected, .. } => format!("wrong type: expected {expected}"),
            Error::Unexpected { expected, .. } => {
                format!("wrong type: expected {expected}")
            }
            Error::SerdeInvalidValue { expected, .. } => format!("bad value: expected {expected}"),
            Error::InvalidScalar { ty: "u64" | "i32", .. } => "wrong type: expected a whole number".into(),
            Error::InvalidScalar { ty, .. } => format!("wrong type: expected {ty}"),
            Error::ExpectedMappingEndAfterEnumVariantValue { .. } => {
                "exactly one of `kafka`, `amqp`, `file` and `stdout` may be given".into()
            }
            // The text may be a secret that contains a `$`.
            Error::InvalidPropertyName { .. } => {
                "`${` must be followed by a variable's name and `}`, as in ${NAME} or ${NAME:-default}".into()
            }
            Error::PropertyRequiredButUnset { name, .. } => format!("the variable `{name}` is not set"),
            _ if is_indented_by_tabs(text, location) => "a tab in the indentation: YAML is indented with spaces".into(),
            other => sentence(&other.to_string()),
        };
        let about_a_key = matches!(error, Error::SerdeUnknownField { .. } | Error::SerdeMissingField { .. });
        match key.filter(|_| !about_a_key) {
            Some(key) => format!("`{key}`: {what}"),
            None => what,
        }
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(formatter, "{}:", file.display())?;
            if self.line > 0 {
                write!(formatter, "{}:{}:", self.line, self.column)?;
            }
            write!(formatter, " ")?;
        }
        formatter.write_str(&self.text)
    }
}

/// "unknown key `sinc`: did you mean `sink`?", or all choices if none is similar.
pub(crate) fn unknown(what: &str, given: &str, known: &[&str]) -> String {
    // The given name may be a complete URL with a password.
    if given.len() > 40 || !given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return format!("unknown {what}: expected one of {}", known.join(", "));
    }
    match nearest(given, known) {
        Some(near) => format!("unknown {what} `{given}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{given}`: expected one of {}", known.join(", ")),
    }
}

/// What others call it.
const SYNONYMS: [(&str, &str); 6] = [
    ("rabbitmq", "amqp"),
    ("rabbit", "amqp"),
    ("redpanda", "kafka"),
    ("token", "api_token"),
    ("url", "api_url"),
    ("brokers", "bootstrap_servers"),
];

fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let meant = SYNONYMS.iter().find(|(synonym, _)| given.eq_ignore_ascii_case(synonym)).map(|(_, name)| name);
    if let Some(name) = known.iter().find(|name| Some(*name) == meant) {
        return Some(name);
    }
    let score = |name: &str| strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase());
    let best = known.iter().copied().max_by(|one, other| score(one).total_cmp(&score(other)))?;
    (score(best) > 0.7).then_some(best)
}

/// The key of the value at this place, if both are on one line.
fn key_before(text: &str, location: Location) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(location.line()).ok()?.checked_sub(1)?)?;
    let column = usize::try_from(location.column()).ok()?.checked_sub(1)?;
    let (end, _) = line.char_indices().nth(column)?;
    let before = line[..end].trim_end().strip_suffix(':')?;
    let key = before.rsplit(|letter: char| !(letter.is_alphanumeric() || "_.-".contains(letter))).next()?;
    (!key.is_empty()).then_some(key)
}

fn is_indented_by_tabs(text: &str, location: Location) -> bool {
    let line = usize::try_from(location.line()).ok().and_then(|line| text.lines().nth(line.checked_sub(1)?));
    line.is_some_and(|line| line[..line.len() - line.trim_start().len()].contains('\t'))
}

/// The message without the place, which is reported separately.
fn sentence(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.split(" at line ").next().unwrap_or(first).to_owned()
}
