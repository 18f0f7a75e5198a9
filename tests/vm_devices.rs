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
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 192, "virtio_transport": transport },
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

/// Takes every device from its driver and gives it back, again and again, while a program uses it; then all of them work.
const REBIND: &str = "
    busy() { while :; do eval \"$1\" 2>/dev/null; usleep 50000; done; }
    disk() { for disk in /sys/block/vd*; do [ \"$(cat $disk/serial)\" = $1 ] && echo /dev/${disk##*/}; done; }
    copy() { from=$(disk first) to=$(disk second); [ -b $from ] && [ -b $to ] && dd if=$from of=$to bs=64k conv=fsync; }
    log() { for port in /dev/vport[0-9]*; do [ -c $port ] && seq 2000 > $port; done; }
    rebind() {
        busy \"$2\" &
        cd /sys/bus/virtio/drivers/$1; set -- $1 virtio*
        for round in $(seq $ROUNDS); do
            for device; do [ $device = $1 ] || { echo $device > unbind; echo $device > bind; }; done
        done
        kill $!; echo REBOUND $1 $(ls -d virtio* | wc -l)
    }
    rebind virtio_blk copy
    rebind virtio_rng 'dd if=/dev/hwrng of=/dev/null bs=64 count=64'
    rebind virtio_console log
    rebind virtio_balloon 'dd if=/dev/zero of=/tmp/memory bs=1M count=64; rm /tmp/memory'
    rebind vmw_vsock_virtio_transport true
    cd /; until log; do usleep 50000; done
    copy && dd if=/dev/hwrng of=/dev/null bs=64 count=16 2>/dev/null && echo WORKS";

#[test]
fn every_driver_may_go_and_come_back_while_its_device_works() {
    // How often; each takes an emulated host a moment.
    let rounds = std::env::var("CORACLE_TEST_REBINDS").unwrap_or("8".to_string());
    let folder = Folder::new("rebind");
    let [first, second, socket, log] = ["first", "second", "vsock", "log"].map(|name| folder.join(name));
    fs::write(&first, pattern(BLOCKS)).unwrap();
    fs::write(&second, vec![0; 64 * BLOCKS as usize]).unwrap();
    // Its own console is a device without a driver at times, so that output goes by the serial port.
    let config = serde_json::json!({
        "boot-source": { "boot_args": "console=ttyS0 reboot=k panic=-1 quiet" },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 192 },
        "drives": [drive("first", &first, "Sync"), drive("second", &second, "Async")],
        "vsock": { "guest_cid": 3, "uds_path": socket },
        "entropy": {},
        "balloon": { "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1 },
        "console": { "ports": [{ "name": "log", "to": { "file": log } }] },
    });
    let (vm, console) = vm(&folder, config, &format!("ROUNDS={rounds}; {REBIND}"));

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
    for rebound in ["blk 2", "rng 1", "console 1", "balloon 1", "transport 1"] {
        assert!(text.contains(rebound), "{rebound}: {text}");
    }
    assert!(text.contains("WORKS"), "{text}");
    assert!(fs::read(&second).unwrap() == pattern(BLOCKS), "the copy differs");
    assert!(fs::read_to_string(&log).unwrap().contains("\n1999"));
}
