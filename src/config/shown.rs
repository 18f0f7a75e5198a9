//! How keys and values of a config are shown in messages: short, and without control characters. Pure functions.

/// The path of `key` in the object at `at`.
pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.to_owned()
    } else {
        format!("{at}.{key}")
    }
}

/// Longest piece of a config, in characters, that a message repeats.
const SHOWN: usize = 80;

/// `text` for a message: in quotes, without control characters, not too long.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

/// `text` without control characters and not too long.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        match c {
            _ if index == SHOWN => {
                shown.push('…');
                break;
            }
            '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}
