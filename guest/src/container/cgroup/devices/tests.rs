#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
use super::*;
use serde_json::json;

/// Runs a program as the kernel would.
fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [kind | access << 16, major, minor];
    let mut registers = [0_u64; 6];
    let mut at = 0_usize;
    for _ in 0..program.len() {
        let Instruction {
            code,
            registers: names,
            offset,
            value,
        } = program[at];
        let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
        let value = value.cast_unsigned();
        let narrow = registers[to] as u32;
        let offset = usize::try_from(offset).unwrap();
        let mut jumps = false;
        match code {
            code::LOAD_WORD if from == usize::from(CONTEXT) => registers[to] = context[offset / 4].into(),
            code::MOVE => registers[to] = value.into(),
            code::COPY => registers[to] = registers[from],
            code::AND => registers[to] = (narrow & value).into(),
            code::SHIFT_RIGHT => registers[to] = (narrow >> value).into(),
            code::UNLESS_EQUAL => jumps = narrow != value,
            code::IF_ANY => jumps = narrow & value != 0,
            code::JUMP => jumps = true,
            code::EXIT => return registers[0] != 0,
            _ => panic!("no instruction: {code:#x}"),
        }
        at += 1 + if jumps { offset } else { 0 };
    }
    panic!("it does not end")
}

fn rules(given: serde_json::Value) -> Vec<DeviceRule> {
    serde_json::from_value(given).unwrap()
}

#[test]
fn the_last_rule_that_names_it_decides_each_access() {
    let program = program(&rules(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
        {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "w"},
        {"allow": true, "type": "b", "access": "m"},
        {"allow": true, "type": "c", "major": 4, "access": "rwm"},
        {"allow": false, "type": "c", "major": 4, "minor": 64, "access": "w"},
        {"allow": true, "type": "a", "major": 300, "minor": -1, "access": "rwm"},
        {"allow": true, "type": "c", "major": 4_294_967_295_u32, "access": "r"},
    ])))
    .unwrap();
    let is = |kind, access, major, minor| run(&program, kind, access, major, minor);
    // What two rules allow together.
    assert!(is(CHARACTER, READ | WRITE, 10, 200));
    assert!(!is(CHARACTER, READ | MAKE, 10, 200));
    assert!(!is(CHARACTER, READ, 10, 201));
    assert!(is(BLOCK, MAKE, 8, 0));
    assert!(!is(BLOCK, MAKE | READ, 8, 0));
    assert!(is(CHARACTER, READ | WRITE | MAKE, 4, 65));
    assert!(!is(CHARACTER, WRITE, 4, 64));
    assert!(!is(CHARACTER, READ | WRITE, 4, 64));
    assert!(is(CHARACTER, READ | MAKE, 4, 64));
    assert!(is(BLOCK, READ, 300, 7) && is(CHARACTER, READ, 300, 7));
    assert!(is(CHARACTER, READ, u32::MAX, 0));
    // Whether it is there.
    assert!(is(BLOCK, 0, 8, 0));
}

#[test]
fn without_rules_nothing_is_allowed_and_with_defaults_what_all_have() {
    let nothing = program(&[]).unwrap();
    assert!(!run(&nothing, CHARACTER, READ, 1, 3));
    let node = |kind: &str, major, minor| Device {
        kind: kind.to_owned(),
        major,
        minor,
        ..Device::default()
    };
    let nodes = [node("b", 7, 1), node("p", 0, 0), node("u", 10, 229)];
    let all = program(&complete(&rules(json!([{"allow": false}])), &nodes)).unwrap();
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
        (136, 0),
        (136, 77),
    ] {
        assert!(
            run(&all, CHARACTER, READ | WRITE | MAKE, major, minor),
            "{major}:{minor}"
        );
        assert!(!run(&all, BLOCK, READ, major, minor));
    }
    assert!(!run(&all, CHARACTER, READ, 1, 1));
    assert!(run(&all, BLOCK, MAKE, 7, 1) && !run(&all, BLOCK, READ, 7, 1));
    assert!(run(&all, CHARACTER, MAKE, 10, 229) && !run(&all, CHARACTER, MAKE, 0, 0));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (rule, expected) in [
        (json!({"type": "x"}), "linux.resources.devices[0].type: \"x\""),
        (json!({"major": -2}), "linux.resources.devices[0].major: -2"),
        (
            json!({"minor": 4_294_967_296_u64}),
            "linux.resources.devices[0].minor: 4294967296",
        ),
        (json!({"access": "rx"}), "linux.resources.devices[0].access: \"rx\""),
    ] {
        let said = program(&rules(json!([rule]))).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
    let many = vec![DeviceRule::default(); 2000];
    assert!(program(&many).unwrap_err().to_string().contains("2000 rules"));
}
