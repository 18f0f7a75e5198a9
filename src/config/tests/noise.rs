//! Noise never panics, and whatever is accepted is valid. Repeatable: the random numbers are our own.
use super::super::{check, parse, read};
use super::schema::{Validator, assert_agreement};
use serde_json::{Value, json};

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// What must hold for any text.
fn assert_sane(json: &str) {
    match parse(json) {
        Ok(spec) => {
            assert!(spec.vcpus >= 1);
            assert!(spec.memory.bytes >= 32 << 20 && spec.memory.bytes % (1 << 20) == 0);
            let again = serde_json::to_string(&read(json).unwrap()).unwrap();
            assert_eq!(parse(&again).unwrap(), spec);
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control), "{message:?} for {json:?}");
            assert!((20..2000).contains(&message.len()), "{message:?} for {json:?}");
        }
    }
}

#[test]
fn arbitrary_bytes_are_refused_politely() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..4000 {
        let bytes: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
        assert_sane(&String::from_utf8_lossy(&bytes));
        // Bytes that JSON is made of get further.
        let likely: String = (0..random.below(64))
            .map(|_| char::from(b"{}[]:,\"\\ 019-.eEtrufalsn\n_k"[random.below(27)]))
            .collect();
        assert_sane(&likely);
    }
}

#[test]
fn damaged_configs_are_refused_politely() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let sources = [
        super::EVERYTHING,
        include_str!("../../../resources/vm/hello.json"),
        include_str!("../../../resources/vm/linux.json"),
    ];
    for round in 0..3000 {
        let mut bytes = sources[round % sources.len()].as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            let end = (at + random.below(12)).min(bytes.len());
            match random.below(4) {
                0 => drop(bytes.drain(at..end)),
                1 => {
                    let piece = bytes[at..end].to_vec();
                    let to = random.below(bytes.len());
                    drop(bytes.splice(to..to, piece));
                }
                2 if at < bytes.len() => bytes[at] = random.next() as u8,
                _ => bytes.truncate(at.max(1)),
            }
        }
        assert_sane(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn configs_with_random_values_keep_every_promise() {
    let mut random = Random(0xdead_beef_cafe_f00d);
    let validator = Validator::new();
    let (mut accepted, mut refused) = (0, 0);
    let whole: Value = serde_json::from_str(super::EVERYTHING).unwrap();
    for _ in 0..1000 {
        let mut document = whole.clone();
        // Fewer sections, so that some are accepted.
        document
            .as_object_mut()
            .unwrap()
            .retain(|key, _| key == "boot-source" || random.below(8) == 0);
        for _ in 0..random.below(3) {
            let value = value(&mut random);
            *node(&mut random, &mut document) = value;
        }
        assert_agreement(&validator, &document);
        assert_sane(&document.to_string());
        if let Ok(config) = read(&document.to_string()) {
            let checked = check(&config);
            accepted += usize::from(checked.is_ok());
            refused += usize::from(checked.is_err());
            assert_eq!(checked, parse(&document.to_string()));
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} accepted, {refused} refused");
}

fn value(random: &mut Random) -> Value {
    let numbers = [
        0,
        1,
        2,
        3,
        31,
        32,
        128,
        8192,
        8193,
        u64::from(u32::MAX),
        1 << 44,
        u64::MAX,
    ];
    let words = [
        "",
        "a",
        "None",
        "2M",
        "pty",
        "\u{0}",
        "169.254.1.1",
        "0b1",
        "06:00:00:00:00:01",
        "ä\u{202e}",
    ];
    match random.below(8) {
        0 => Value::Null,
        1 => json!(random.next() & 1 == 0),
        2 | 3 => json!(numbers[random.below(numbers.len())]),
        4 | 5 => json!(words[random.below(words.len())]),
        6 => json!([words[random.below(words.len())]]),
        _ => json!({ words[random.below(words.len())]: numbers[random.below(numbers.len())] }),
    }
}

/// Some place in the document.
fn node<'a>(random: &mut Random, document: &'a mut Value) -> &'a mut Value {
    let count = match &*document {
        Value::Object(object) => object.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if count == 0 || random.below(4) == 0 {
        return document;
    }
    let chosen = random.below(count);
    match document {
        Value::Object(object) => node(random, object.values_mut().nth(chosen).unwrap()),
        Value::Array(items) => node(random, &mut items[chosen]),
        _ => unreachable!(),
    }
}
