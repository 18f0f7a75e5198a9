//! Tests of the config: good and bad ones in tables, the schema against the parser, and noise.
mod bad;
mod good;
mod noise;
mod schema;

/// All keys of the schema, right by every rule.
const EVERYTHING: &str = include_str!("tests/everything.json");

/// The examples that users start from.
const EXAMPLES: [(&str, &str); 2] = [
    ("hello.json", include_str!("../../resources/vm/hello.json")),
    ("linux.json", include_str!("../../resources/vm/linux.json")),
];
