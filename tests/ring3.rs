//! The guest of the queue benchmarks does on this machine's KVM what it is ordered to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
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
use serde_json::{Value, json};
use std::{fs, time::Duration};

mod support {
    pub mod tiny;
}
use support::tiny::Folder;

const LIMIT: Duration = Duration::from_secs(60);

/// What the guest writes to its console, given a device by these keys of a config.
fn answer(folder: &Folder, devices: &Value, order: &Order) -> String {
    let (kernel, console) = (folder.join("kernel"), folder.join("console"));
    fs::write(&kernel, IMAGE).unwrap();
    let mut config = json!({
        "boot-source": { "kernel_image_path": kernel, "boot_args": order.to_string() },
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 64, "virtio_transport": "Mmio" },
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(devices.as_object().unwrap().clone());
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
    let folder = Folder::new("ring3-rng");
    for event_idx in [true, false] {
        let order = Order { event_idx, ..order() };
        let text = answer(&folder, &json!({ "entropy": {} }), &order);
        let report = Report::parse(&text).unwrap();
        assert_eq!(report.requests, 200);
        assert!((1..=200).contains(&report.kicks), "{text}");
        assert!(report.ticks > 0, "{text}");
    }
}

#[test]
fn both_engines_of_a_disk_give_back_the_sectors_asked_for() {
    if IMAGE.is_empty() {
        return;
    }
    let folder = Folder::new("ring3-disk");
    let disk = folder.join("disk");
    for engine in ["Sync", "Async"] {
        let sectors = (0..2048_u64).flat_map(|number| [number.to_le_bytes().as_slice(), &[0; 504]].concat());
        fs::write(&disk, sectors.collect::<Vec<u8>>()).unwrap();
        let devices = json!({ "drives": [{
            "drive_id": "disk", "is_root_device": false, "path_on_host": disk, "is_read_only": true, "io_engine": engine,
        }] });
        let order = Order { bytes: 4096, ..order() };
        let text = answer(&folder, &devices, &order);
        assert_eq!(Report::parse(&text).map(|report| report.requests), Ok(200), "{engine}");

        fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let text = answer(&folder, &devices, &order);
        assert_eq!(text, "the disk answers with other bytes than those asked for");
    }
}

#[test]
fn what_is_wrong_is_said_on_the_console() {
    if IMAGE.is_empty() {
        return;
    }
    let folder = Folder::new("ring3-wrong");
    let window = Host::VIRTIO_SLOTS.base + 0x1000;
    let text = answer(&folder, &json!({}), &Order { window, ..order() });
    assert_eq!(text, "there is no virtio device");
    let text = answer(&folder, &json!({ "entropy": {} }), &Order { depth: 65, ..order() });
    assert!(text.starts_with("the order asks for"), "{text}");
}
