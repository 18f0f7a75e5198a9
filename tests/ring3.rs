//! The guest of the queue benchmarks does on this machine's KVM what it is ordered to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use coracle::{
    builder::build,
    config::{
        parse,
        spec::{SerialInput, SerialOutput},
    },
    event::Outcome,
};
use coracle_arch::{Arch, Host};
use coracle_ring3::{
    IMAGE,
    order::{Order, Report},
};
use serde_json::json;
use std::{fs, time::Duration};

mod support {
    pub mod tiny;
}
use support::tiny::Folder;

const LIMIT: Duration = Duration::from_secs(60);

/// What the guest writes to its console.
fn answer(name: &str, order: &Order) -> String {
    let folder = Folder::new(name);
    let (kernel, console) = (folder.join("kernel"), folder.join("console"));
    fs::write(&kernel, IMAGE).unwrap();
    let config = json!({
        "boot-source": { "kernel_image_path": kernel, "boot_args": order.to_string() },
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 64 },
        "entropy": {},
    });
    let mut spec = parse(&config.to_string()).unwrap();
    spec.serial.input = SerialInput::None;
    spec.serial.output = SerialOutput::File(console.clone());
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    assert_eq!(vm.wait_timeout(LIMIT), Some(Outcome::PoweredOff));
    fs::read_to_string(console).unwrap()
}

fn order() -> Order {
    Order {
        window: Host::VIRTIO_SLOTS.base,
        depth: 8,
        requests: 200,
        bytes: 64,
        write: false,
        event_idx: true,
    }
}

#[test]
fn requests_are_answered_with_and_without_event_idx() {
    if IMAGE.is_empty() {
        return; // x86_64 has such a guest, other architectures do not
    }
    for event_idx in [true, false] {
        let text = answer("ring3-rng", &Order { event_idx, ..order() });
        let report = Report::parse(&text).unwrap();
        assert_eq!(report.requests, 200);
        assert!((1..=200).contains(&report.kicks), "{text}");
        assert!(report.ticks > 0, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_on_the_console() {
    if IMAGE.is_empty() {
        return;
    }
    let text = answer(
        "ring3-none",
        &Order {
            window: Host::VIRTIO_SLOTS.base + 0x1000,
            ..order()
        },
    );
    assert_eq!(text, "there is no virtio device");
    let text = answer("ring3-deep", &Order { depth: 65, ..order() });
    assert!(Report::parse(&text).is_err(), "{text}");
}
