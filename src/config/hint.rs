//! Suggestions for messages: the nearest key, the section where a key belongs, an example. Pure; asked only once
//! something is wrong, and answered from the schema, so that nothing is written down twice.
use super::shown::printable;
use serde_json::Value;

/// What people call things elsewhere, and the path of our key for it.
pub(super) const ELSEWHERE: [(&str, &str); 12] = [
    ("bundle", "boot-source.kernel_bundle"),
    ("cmdline", "boot-source.boot_args"),
    ("cpus", "machine-config.vcpu_count"),
    ("initramfs", "boot-source.initrd_path"),
    ("initrd", "boot-source.initrd_path"),
    ("kernel", "boot-source.kernel_image_path"),
    ("mem", "machine-config.mem_size_mib"),
    ("memory", "machine-config.mem_size_mib"),
    ("net", "network-interfaces"),
    ("disks", "drives"),
    ("ram", "machine-config.mem_size_mib"),
    ("vcpus", "machine-config.vcpu_count"),
];

/// What to tell about `key`, which the object at `at` does not know.
pub(super) fn for_unknown_key(key: &str, at: &str, known: &[&str]) -> String {
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == key).map(|(_, ours)| *ours);
    if let Some(ours) = elsewhere.filter(|ours| at.is_empty() || ours.starts_with(at)) {
        return format!("Did you mean {ours:?}?");
    }
    if let Some(near) = nearest(key, known) {
        return format!("Did you mean {near:?}?");
    }
    match home_of(key).filter(|home| home != at).as_deref() {
        Some("") => "It belongs at the top level: move it there.".to_owned(),
        Some(home) => format!("It belongs in {home}: move it there."),
        None => format!("Remove it, or use one of: {}.", known.join(", ")),
    }
}

/// The known key that `key` probably means: a few letters apart, or one a part of the other.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    // Far longer than any key: not worth the quadratic time.
    if key.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let key = plain(key);
    let near = known
        .iter()
        .map(|name| (strsim::osa_distance(&key, &plain(name)), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 6)
        .min_by_key(|(distance, _)| *distance);
    let is_part = |name: &&&str| key.len() >= 4 && (plain(name).contains(&key) || key.starts_with(&plain(name)));
    near.map(|(_, name)| name)
        .or_else(|| known.iter().find(is_part).copied())
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

/// The whole numbers that the key at `path` takes, in words.
pub(super) fn whole_number(path: &str) -> String {
    let (at, key) = path.rsplit_once('.').unwrap_or(("", path));
    let schema = super::schema();
    let limit = |name: &str| properties(&schema, at)?.get(key)?.get(name)?.as_u64();
    let least = limit("minimum").unwrap_or_default();
    match limit("maximum") {
        Some(most) => format!("a whole number from {least} to {most}"),
        None => format!("a whole number, at least {least} and below 2^64"),
    }
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
