//! All kinds of virtio devices in one stock guest, on either transport, and pauses while they work.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod tap;
    pub mod tiny;
}
use coracle::{
    builder::build,
    config::{
        self,
        spec::{SerialInput, SerialOutput, SerialSpec},
    },
    event::Outcome,
};
use std::{
    fs, thread,
    time::{Duration, Instant},
};
use support::{
    run::{LIMIT, bundle},
    tap::Tap,
    tiny::{Folder, pattern},
};

/// 64-byte blocks of a disk.
const BLOCKS: u32 = 8 << 14;

/// Finds everything, then copies one disk to the other, again and again, beside packets and random numbers.
const SCRIPT: &str = "set -e
    bound() { ls -d /sys/bus/virtio/drivers/$1/virtio* | wc -l; }
    echo FOUND $(bound virtio_blk) $(bound virtio_net) $(bound virtio_console) $(bound virtio_rng) \
        $(bound virtio_balloon) $(bound vmw_vsock_virtio_transport)
    for card in 0 1; do ip addr add 172.30.2$card.2/24 dev eth$card; ip link set eth$card up; done
    ping -A -q 172.30.20.1 >/dev/null & ping -A -q 172.30.21.1 >/dev/null &
    dd if=/dev/hwrng of=/dev/null bs=64 2>/dev/null &
    echo WORKING
    for round in 1 2 3; do dd if=/dev/vda of=/dev/vdb bs=16k conv=fsync 2>/dev/null; done
    set -- $(sha256sum /dev/vda) $(sha256sum /dev/vdb); test $1 = $3
    for card in 0 1; do ping -c 1 -W 5 172.30.2$card.1 >/dev/null; done
    echo DONE";

fn all_at_once(transport: &str, taps: [&str; 2]) {
    let folder = Folder::new(&format!("all-{transport}"));
    let _taps = [0, 1].map(|card| Tap::new(taps[card], &format!("172.30.2{card}.1/24"), false));
    let [first, second, console, socket] = ["first", "second", "console", "vsock"].map(|name| folder.join(name));
    fs::write(&first, pattern(BLOCKS)).unwrap();
    fs::write(&second, vec![0; 64 * BLOCKS as usize]).unwrap();
    let drive = |id: &str, path: &std::path::Path, engine: &str| serde_json::json!({ "drive_id": id, "path_on_host": path, "is_root_device": false, "io_engine": engine });
    let config = serde_json::json!({
        "boot-source": { "kernel_bundle": bundle(), "command": ["sh", "-c", SCRIPT] },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 192, "virtio_transport": transport },
        "drives": [drive("first", &first, "Sync"), drive("second", &second, "Async")],
        "network-interfaces": taps.map(|tap| serde_json::json!({ "iface_id": tap, "host_dev_name": tap })),
        "vsock": { "guest_cid": 3, "uds_path": socket },
        "entropy": {},
        "balloon": { "amount_mib": 8, "deflate_on_oom": true },
    });
    let mut spec = config::parse(&config.to_string()).unwrap();
    spec.serial = SerialSpec {
        input: SerialInput::None,
        output: SerialOutput::File(console.clone()),
    };
    let vm = build(spec).unwrap();
    vm.start().unwrap();

    let says = |what: &str| String::from_utf8_lossy(&fs::read(&console).unwrap()).contains(what);
    let until = Instant::now() + LIMIT;
    let mut pauses = 0;
    while !says("DONE") && vm.wait_timeout(Duration::from_millis(20)).is_none() {
        assert!(Instant::now() < until, "the guest is stuck after {pauses} pauses");
        if says("WORKING") && vm.pause().is_ok() {
            // As still as it is, nothing is in flight.
            thread::sleep(Duration::from_millis(2));
            vm.resume().unwrap();
            pauses += 1;
        }
    }
    let outcome = vm.wait_timeout(LIMIT).expect("the VM ends");
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    assert!(text.contains("FOUND 2 2 1 1 1 1"), "{text}");
    assert!(pauses >= 5, "{pauses} pauses only");
    assert!(fs::read(&second).unwrap() == pattern(BLOCKS), "the copy differs");
}

#[test]
fn every_device_works_beside_the_others_and_through_pauses() {
    all_at_once("Pci", ["cordev0", "cordev1"]);
    all_at_once("Mmio", ["cordev0", "cordev1"]);
}
