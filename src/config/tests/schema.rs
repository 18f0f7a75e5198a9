//! The schema says the same as the parser: which keys there are, which are required, what their types are.
use super::super::{ConfigError, check, read, schema};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeSet};

/// As much of JSON Schema as our schema uses; it panics at a word that it does not know.
pub(super) struct Validator {
    schema: Value,
    /// Definitions and keys that a document made use of.
    used: RefCell<BTreeSet<(String, String)>>,
}

impl Validator {
    pub(super) fn new() -> Self {
        Self {
            schema: schema(),
            used: RefCell::default(),
        }
    }

    pub(super) fn accepts(&self, document: &Value) -> bool {
        self.node("VmConfig", &self.schema, document)
    }

    fn node(&self, name: &str, node: &Value, document: &Value) -> bool {
        node.as_object()
            .unwrap()
            .iter()
            .all(|(word, value)| match word.as_str() {
                "$schema" | "$defs" | "title" | "description" | "examples" | "default" | "format" => true,
                "$ref" => {
                    let target = value.as_str().unwrap().strip_prefix('#').unwrap();
                    let name = target.strip_prefix("/$defs/").unwrap();
                    self.node(name, self.schema.pointer(target).unwrap(), document)
                }
                "anyOf" => value
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|choice| self.node(name, choice, document)),
                "oneOf" => {
                    value
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter(|choice| self.node(name, choice, document))
                        .count()
                        == 1
                }
                "enum" => value.as_array().unwrap().contains(document),
                "const" => value == document,
                "type" => match value {
                    Value::Array(names) => names.iter().any(|name| has_type(document, name)),
                    name => has_type(document, name),
                },
                "minimum" => whole(document).is_none_or(|number| number >= whole(value).unwrap()),
                "maximum" => whole(document).is_none_or(|number| number <= whole(value).unwrap()),
                "required" => document.as_object().is_none_or(|object| {
                    value
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|key| object.contains_key(key.as_str().unwrap()))
                }),
                "items" => document
                    .as_array()
                    .is_none_or(|items| items.iter().all(|item| self.node(name, value, item))),
                "properties" => document.as_object().is_none_or(|object| {
                    object.iter().all(|(key, item)| match value.get(key) {
                        Some(property) => {
                            self.used.borrow_mut().insert((name.to_owned(), key.clone()));
                            self.node(name, property, item)
                        }
                        None => true,
                    })
                }),
                "additionalProperties" => document.as_object().is_none_or(|object| {
                    let known = node.get("properties").and_then(Value::as_object);
                    let mut others = object
                        .iter()
                        .filter(|(key, _)| !known.is_some_and(|known| known.contains_key(*key)));
                    others.all(|(_, item)| match value {
                        Value::Bool(allowed) => *allowed,
                        schema => self.node(name, schema, item),
                    })
                }),
                word => panic!("the schema has the word {word}, which this validator does not know"),
            })
    }

    /// Each object in the schema with its name.
    fn objects(&self) -> Vec<(String, &Value)> {
        let definitions = self.schema["$defs"].as_object().unwrap();
        let mut objects = vec![("VmConfig".to_owned(), &self.schema)];
        objects.extend(definitions.iter().map(|(name, node)| (name.clone(), node)));
        objects.retain(|(_, node)| node.get("properties").is_some());
        objects
    }
}

fn whole(number: &Value) -> Option<i128> {
    number
        .as_u64()
        .map(i128::from)
        .or_else(|| number.as_i64().map(i128::from))
}

fn has_type(document: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => document.is_null(),
        "boolean" => document.is_boolean(),
        "integer" => document.is_u64() || document.is_i64(),
        "string" => document.is_string(),
        "array" => document.is_array(),
        "object" => document.is_object(),
        name => panic!("the type {name}"),
    }
}

/// Asserts that schema and parser agree on `document`.
pub(super) fn assert_agreement(validator: &Validator, document: &Value) {
    let json = document.to_string();
    match (validator.accepts(document), read(&json)) {
        (true, Err(error)) => panic!("the schema accepts what is refused: {error}\n{json}"),
        // A number out of range is a rule rather than a matter of types.
        (false, Ok(config)) => match check(&config) {
            Err(ConfigError::Rule { .. }) => {}
            other => panic!("the schema refuses what is read: {other:?}\n{json}"),
        },
        (true, Ok(_)) | (false, Err(_)) => {}
    }
}

/// All documents that differ from `document` at one place: a key less, a key more, a value replaced.
fn neighbours(document: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = [
        "null", "true", "-1", "3", "1.5", "\"None\"", "\"word\"", "[]", "{}", "[{}]",
    ]
    .map(|json| serde_json::from_str(json).unwrap())
    .into();
    match document {
        Value::Object(object) => {
            let mut more = object.clone();
            more.insert("no-such-key".to_owned(), json!(1));
            all.push(Value::Object(more));
            for (key, value) in object {
                let mut less = object.clone();
                less.remove(key);
                all.push(Value::Object(less));
                for neighbour in neighbours(value) {
                    let mut changed = object.clone();
                    changed.insert(key.clone(), neighbour);
                    all.push(Value::Object(changed));
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                for neighbour in neighbours(item) {
                    let mut changed = items.clone();
                    changed[index] = neighbour;
                    all.push(Value::Array(changed));
                }
            }
        }
        _ => {}
    }
    all
}

fn everything() -> Value {
    serde_json::from_str(super::EVERYTHING).unwrap()
}

#[test]
fn it_accepts_the_examples_and_all_keys() {
    let validator = Validator::new();
    for (name, json) in super::EXAMPLES {
        let document = serde_json::from_str(json).unwrap();
        assert!(validator.accepts(&document), "{name}");
        assert_agreement(&validator, &document);
    }
    assert!(validator.accepts(&everything()));

    // Where the test runs beside the sources, no example is left out.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/vm");
    for entry in folder.read_dir().into_iter().flatten() {
        let name = entry.unwrap().file_name();
        assert!(
            super::EXAMPLES.iter().any(|(known, _)| name == *known),
            "{name:?} is not tested"
        );
    }
}

#[test]
fn it_agrees_with_the_parser_on_every_key_and_type() {
    let validator = Validator::new();
    let whole = everything();
    let mut count = 0;
    for (section, value) in whole.as_object().unwrap() {
        for neighbour in neighbours(value) {
            // The sections that the rules of others ask, and the one in question.
            let mut document = json!({});
            for key in ["boot-source", "machine-config", "network-interfaces"] {
                document[key] = whole[key].clone();
            }
            document[section] = neighbour;
            assert_agreement(&validator, &document);
            count += 1;
        }
    }
    for document in neighbours(&json!({ "boot-source": whole["boot-source"] })) {
        assert_agreement(&validator, &document);
    }
    assert!(count > 1000, "only {count}");
}

#[test]
fn the_config_with_all_keys_has_all_keys() {
    let validator = Validator::new();
    assert!(validator.accepts(&everything()));
    let used = validator.used.borrow();
    for (name, object) in validator.objects() {
        for key in object["properties"].as_object().unwrap().keys() {
            assert!(
                used.contains(&(name.clone(), key.clone())),
                "{name} has {key}, but everything.json does not"
            );
        }
    }
}

#[test]
fn each_key_is_described_and_each_required_one_has_an_example() {
    let validator = Validator::new();
    for (name, object) in validator.objects() {
        assert_eq!(object["additionalProperties"], json!(false), "{name}");
        for (key, property) in object["properties"].as_object().unwrap() {
            assert!(
                property["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{name}.{key}"
            );
            for example in property["examples"].as_array().into_iter().flatten() {
                assert!(validator.node(&name, property, example), "{name}.{key}: {example}");
            }
        }
        for key in object.get("required").and_then(Value::as_array).into_iter().flatten() {
            let property = &object["properties"][key.as_str().unwrap()];
            assert!(property["examples"][0] != Value::Null, "{name}.{key} has no example");
        }
    }
}

#[test]
fn names_from_elsewhere_lead_to_keys_that_exist() {
    let mut config = everything();
    for (name, path) in super::super::hint::ELSEWHERE {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(config.pointer_mut(&pointer).is_some(), "{name} leads to {path}");
    }
}

#[test]
fn it_is_of_the_promised_draft() {
    assert_eq!(
        schema()["$schema"],
        json!("https://json-schema.org/draft/2020-12/schema")
    );
    assert_eq!(schema()["required"], json!(["boot-source"]));
}
