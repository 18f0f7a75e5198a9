//! Any text as a config: never a panic, one printable line when refused, a valid machine when accepted.
#![no_main]
use coracle::config;

libfuzzer_sys::fuzz_target!(|text: &str| match config::parse(text) {
    Ok(spec) => {
        assert!(spec.vcpus >= 1 && spec.memory.bytes >= 32 << 20);
        // What was read can be written, and means the same.
        let raw = config::read(text).expect("it was read before");
        let again = serde_json::to_string(&raw).expect("a config has only keys and values of JSON");
        assert_eq!(config::parse(&again).as_ref(), Ok(&spec));
    }
    Err(error) => {
        let message = error.to_string();
        assert!(!message.is_empty() && message.len() < 2000);
        assert!(!message.chars().any(char::is_control));
    }
});
