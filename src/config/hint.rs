//! Suggestions for messages: the nearest key, the section where a key belongs, an example. Pure; asked only once
//! something is wrong, and answered from the schema, so that nothing is written down twice.
use super::error::printable;
use serde_json::Value;

/// What to tell about `key`, which the object at `at` does not know.
pub(super) fn for_unknown_key(key: &str, at: &str, known: &[&str]) -> String {
    if let Some(near) = nearest(key, known) {
        return format!("Did you mean {near:?}?");
    }
    if let Some(home) = home_of(key).filter(|home| home != at) {
        return match home.as_str() {
            "" => format!("{key:?} belongs at the top level: move it there."),
            home => format!("{key:?} belongs in {home}: move it there."),
        };
    }
    if known.is_empty() {
        return "Remove it: nothing is known here.".to_owned();
    }
    format!("Remove it, or use one of: {}.", known.join(", "))
}

/// The known key that `key` probably means, if one is near.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    // Far longer than any key: not worth the quadratic time.
    if key.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let key = plain(key);
    known
        .iter()
        .map(|name| (strsim::osa_distance(&key, &plain(name)), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 6 || starts_alike(&key, &plain(name)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Whether one key is a good part of the other's start, as `vcpus` or `kernel_image` are meant.
fn starts_alike(key: &str, name: &str) -> bool {
    key.len() >= 3 && (name.starts_with(key) || key.starts_with(name))
}

/// The section whose objects know `key`: a path without indices, or "" for the top level.
fn home_of(key: &str) -> Option<String> {
    let schema = super::schema();
    let top = schema.get("properties")?.as_object()?;
    if top.contains_key(key) {
        return Some(String::new());
    }
    let knows = |name: &str| properties(&schema, name).is_some_and(|keys| keys.contains_key(key));
    top.keys().find(|name| knows(name)).cloned()
}

/// An example of `key` with a value, for the object at `at`.
pub(super) fn example(at: &str, key: &str) -> String {
    let schema = super::schema();
    let value = properties(&schema, at)
        .and_then(|keys| keys.get(key))
        .and_then(|property| property.get("examples")?.get(0));
    match value {
        Some(value) => format!("\"{}\": {value}", printable(key)),
        None => format!("\"{}\": …", printable(key)),
    }
}

/// The properties of the object at `at` in the schema.
fn properties<'a>(schema: &'a Value, at: &str) -> Option<&'a serde_json::Map<String, Value>> {
    let mut here = schema;
    for step in at.split('.').filter(|step| !step.is_empty()) {
        let (name, indices) = step
            .split_once('[')
            .map_or((step, 0), |(name, rest)| (name, 1 + rest.matches('[').count()));
        here = object(schema, here)?.get("properties")?.get(name)?;
        for _ in 0..indices {
            here = resolve(schema, here)?.get("items")?;
        }
    }
    object(schema, here)?.get("properties")?.as_object()
}

/// The object schema that `node` is, refers to, or has among its alternatives; that of its items if it is a list.
fn object<'a>(schema: &'a Value, node: &'a Value) -> Option<&'a Value> {
    let node = resolve(schema, node)?;
    if node.get("properties").is_some() {
        return Some(node);
    }
    if let Some(items) = node.get("items") {
        return object(schema, items);
    }
    let choices = node.get("anyOf").or_else(|| node.get("oneOf"))?.as_array()?;
    choices.iter().find_map(|choice| object(schema, choice))
}

/// Follows a reference.
fn resolve<'a>(schema: &'a Value, node: &'a Value) -> Option<&'a Value> {
    match node.get("$ref").and_then(Value::as_str) {
        Some(target) => schema.pointer(target.strip_prefix('#')?),
        None => Some(node),
    }
}
