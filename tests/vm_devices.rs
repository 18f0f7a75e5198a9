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
    vm::Vm,
};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
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

/// A VM whose guest runs `script`, and its console's output.
fn vm(folder: &Folder, mut config: serde_json::Value, script: &str) -> (Vm, PathBuf) {
    config["boot-source"]["kernel_bundle"] = bundle().to_str().into();
    config["boot-source"]["command"] = ["sh", "-c", script].as_slice().into();
    let console = folder.join("console");
    let mut spec = config::parse(&config.to_string()).unwrap();
    spec.serial = SerialSpec {
        input: SerialInput::None,
        output: SerialOutput::File(console.clone()),
    };
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    (vm, console)
}

fn text(console: &Path) -> String {
    String::from_utf8_lossy(&fs::read(console).unwrap()).into_owned()
}

fn drive(id: &str, path: &Path, engine: &str) -> serde_json::Value {
    serde_json::json!({ "drive_id": id, "path_on_host": path, "is_root_device": false, "io_engine": engine })
}

fn all_at_once(transport: &str, taps: [&str; 2]) {
    let folder = Folder::new(&format!("all-{transport}"));
    let _taps = [0, 1].map(|card| Tap::new(taps[card], &format!("172.30.2{card}.1/24"), false));
    let [first, second, socket] = ["first", "second", "vsock"].map(|name| folder.join(name));
    fs::write(&first, pattern(BLOCKS)).unwrap();
    fs::write(&second, vec![0; 64 * BLOCKS as usize]).unwrap();
    let config = serde_json::json!({
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 192, "virtio_transport": transport },
        "drives": [drive("first", &first, "Sync"), drive("second", &second, "Async")],
        "network-interfaces": taps.map(|tap| serde_json::json!({ "iface_id": tap, "host_dev_name": tap })),
        "vsock": { "guest_cid": 3, "uds_path": socket },
        "entropy": {},
        "balloon": { "amount_mib": 8, "deflate_on_oom": true },
    });
    let (vm, console) = vm(&folder, config, SCRIPT);

    let says = |what: &str| text(&console).contains(what);
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
    let text = text(&console);
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

/// Takes every device from its driver and gives it back, 50 times, while programs use it; then all of them work.
const REBIND: &str = "
    busy() { while :; do $@ 2>/dev/null || usleep 5000; done; }
    busy dd if=/dev/vda of=/dev/null bs=64k & busy dd if=/dev/vda of=/dev/vdb bs=4k conv=fsync &
    busy dd if=/dev/hwrng of=/dev/null bs=64 count=16 &
    say() { echo $1 > /dev/vport$2; }
    for port in 0p0 0p1 1p0 1p1; do busy say hello $port & done
    for driver in virtio_blk virtio_rng virtio_balloon virtio_console vmw_vsock_virtio_transport; do
        cd /sys/bus/virtio/drivers/$driver; set -- virtio*
        for round in $(seq 50); do for device; do echo $device > unbind; echo $device > bind; done; done
        echo REBOUND $driver $(ls -d virtio* | wc -l)
    done
    kill $(jobs -p); wait 2>/dev/null; cd /
    dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null; set -- $(sha256sum /dev/vda) $(sha256sum /dev/vdb)
    test $1 = $3 && dd if=/dev/hwrng of=/dev/null bs=64 count=16 2>/dev/null && echo WORKS";

#[test]
fn every_driver_may_go_and_come_back_while_its_device_works() {
    let folder = Folder::new("rebind");
    let [first, second, socket, log] = ["first", "second", "vsock", "log"].map(|name| folder.join(name));
    fs::write(&first, pattern(BLOCKS)).unwrap();
    fs::write(&second, vec![0; 64 * BLOCKS as usize]).unwrap();
    let config = serde_json::json!({
        "boot-source": { "boot_args": "console=ttyS0 reboot=k panic=-1 quiet" },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 192 },
        "drives": [drive("first", &first, "Sync"), drive("second", &second, "Async")],
        "vsock": { "guest_cid": 3, "uds_path": socket },
        "entropy": {},
        "balloon": { "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1 },
        "console": { "ports": [{ "name": "log", "to": { "file": log } }] },
    });
    let (vm, console) = vm(&folder, config, REBIND);

    // On the host's side, programs call the guest and its balloon changes.
    let mut calls = 0;
    let until = Instant::now() + LIMIT;
    let outcome = loop {
        if let Some(outcome) = vm.wait_timeout(Duration::from_millis(5)) {
            break outcome;
        }
        assert!(Instant::now() < until, "the guest is stuck: {}", text(&console));
        vm.balloon().unwrap().set_target((calls % 2) * (8 << 20));
        // Nobody listens in the guest, and no driver may be there to say so.
        if let Ok(mut call) = UnixStream::connect(&socket) {
            call.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            let _ = call.write_all(b"CONNECT 99\n").and_then(|()| call.read(&mut [0; 16]));
        }
        calls += 1;
    };
    let text = text(&console);
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    for rebound in ["blk 2", "rng 1", "balloon 1", "console 2", "transport 1"] {
        assert!(
            text.contains(&format!("{rebound}\n").replace('\n', "\r\n")),
            "{rebound}: {text}"
        );
    }
    assert!(text.contains("WORKS"), "{text}");
    assert!(fs::read(&second).unwrap() == pattern(BLOCKS), "the copy differs");
    assert!(fs::read_to_string(&log).unwrap().contains("hello"));
}
