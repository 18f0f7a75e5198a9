//! Configs that are refused, each with its message.
use super::super::{parse, raw};

/// Pairs of a config and its message.
fn table() -> Vec<(String, &'static str)> {
    let mut lines = include_str!("bad.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut pairs = Vec::new();
    while let Some(line) = lines.next() {
        let message = lines
            .next()
            .and_then(|line| line.strip_prefix("    "))
            .expect("a message below each config");
        let config = match line.strip_prefix("+ ") {
            Some(part) => format!(r#"{{"boot-source": {{"kernel_image_path": "vmlinux"}}, {part}}}"#),
            None => line.to_owned(),
        };
        pairs.push((config, message));
    }
    pairs
}

#[test]
fn each_rule_names_place_value_and_remedy() {
    let table = table();
    assert!(table.len() > 190, "only {} cases were read", table.len());
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(config, message)| {
            let got = parse(config).map_or_else(|error| error.to_string(), |_| "it was accepted".to_owned());
            (got != *message).then(|| format!("{config}\n  expected: {message}\n  got:      {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn text_that_no_table_can_hold() {
    let message = |json: &str| parse(json).unwrap_err().to_string();
    assert_eq!(
        message(""),
        "the config is not valid JSON: EOF while parsing a value at line 1, column 0. Correct the text there."
    );
    assert_eq!(
        message("{\n  \"a\": \"\u{1}\"\n}"),
        "the config is not valid JSON: control character (\\u0000-\\u001F) found while parsing a string at line 2, \
         column 9. Correct the text there."
    );
    assert_eq!(
        message(&" ".repeat((4 << 20) + 1)),
        "the config has 4194305 bytes, but at most 4194304 are read. Is it the right file?"
    );
}

#[test]
fn deep_and_wide_configs_are_refused_in_one_line() {
    for json in [
        "[".repeat(1 << 20),
        "{\"boot-source\":".repeat(1 << 16),
        format!("{{{}\"b\": 1}}", "\"a\": 1, ".repeat(1 << 16)),
        format!("{{\"{}\": 1}}", "k".repeat(1 << 20)),
        format!(
            "{{\"boot-source\": {{\"kernel_image_path\": \"a\", \"boot_args\": \"{}\\u0007\"}}}}",
            "x".repeat(1 << 20)
        ),
    ] {
        let message = parse(&json).unwrap_err().to_string();
        assert!(message.len() < 600 && !message.contains('\n'), "{message}");
    }
}

#[test]
fn a_config_made_in_code_meets_the_same_rules() {
    let mut config = raw::VmConfig::from_kernel("vmlinux");
    config.machine_config.vcpu_count = 0;
    let message = super::super::check(&config).unwrap_err().to_string();
    assert!(message.starts_with("machine-config.vcpu_count is 0, but"), "{message}");

    let message = super::super::check(&raw::VmConfig::default()).unwrap_err().to_string();
    assert!(
        message.starts_with("boot-source.kernel_image_path (or kernel_bundle) is missing"),
        "{message}"
    );
}
