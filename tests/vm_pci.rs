//! Virtio devices on a PCI bus, with a stock kernel's drivers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod tiny;
}
use coracle::{builder::build, config, event::Outcome};
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};
use support::{
    run::{Ended, LIMIT, Run, bundle},
    tiny::Folder,
};

/// A machine with a source of random numbers on PCI, whose guest runs a shell script.
fn machine(script: &str) -> Value {
    json!({
        "boot-source": {"kernel_bundle": bundle(), "command": ["sh", "-ec", script]},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "virtio_transport": "Pci"},
        "entropy": {},
    })
}

fn write(folder: &Path, config: &Value) -> String {
    let file = folder.join("vm.json");
    fs::write(&file, config.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

fn run(name: &str, script: &str) -> Ended {
    let folder = Folder::new(name);
    Run::new(["vm", "run"]).arg(write(&folder, &machine(script))).end()
}

/// Where the function is, whose place depends on what else is plugged, and how many bytes it gives in one go.
const RNG: &str = "for f in /sys/bus/pci/devices/*; do [ $(cat $f/device) != 0x1044 ] || rng=$f; done; \
                   take() { head -c 100 /dev/hwrng | wc -c; };";

#[test]
fn a_stock_driver_works_by_messages() {
    let script = "echo IDS $(cat $rng/vendor $rng/device); echo BYTES $(take); \
                  v=$(basename $rng/virtio*); \
                  echo INTERRUPTS $(grep MSI /proc/interrupts | grep $v-input | awk '{ print $2 }')";
    let ended = run("messages", &format!("{RNG} {script}"))
        .code(0)
        .shows("IDS 0x1af4 0x1044");
    assert_eq!(ended.number("BYTES"), 100);
    assert!(ended.number("INTERRUPTS") > 0);
}

/// Unbinding resets the device and gives its vectors back; removing and finding it again asks for the sizes of its BARs and
/// gives them addresses anew.
#[test]
fn a_driver_can_leave_and_come_back_and_so_can_the_function() {
    let script = "driver=/sys/bus/pci/drivers/virtio-pci; id=$(basename $rng); \
                  for n in 1 2 3 4 5; do \
                      echo $id > $driver/unbind; echo $id > $driver/bind; take > /dev/null; \
                  done; echo REBOUND $(take); \
                  echo 1 > $rng/remove; test ! -e $rng; echo 1 > /sys/bus/pci/rescan; echo FOUND $(take)";
    let ended = run("rebind", &format!("{RNG} {script}")).code(0);
    assert_eq!((ended.number("REBOUND"), ended.number("FOUND")), (100, 100));
}

#[test]
fn a_machine_on_mmio_has_no_pci_bus() {
    let folder = Folder::new("no-bus");
    let mut config =
        machine("echo FUNCTIONS $(ls /sys/bus/pci/devices | wc -l); echo BYTES $(head -c 100 /dev/hwrng | wc -c)");
    config["machine-config"]["virtio_transport"] = "Mmio".into();
    let ended = Run::new(["vm", "run"]).arg(write(&folder, &config)).end().code(0);
    assert_eq!((ended.number("FUNCTIONS"), ended.number("BYTES")), (0, 100));
}

#[test]
fn a_function_outlives_pauses_under_load() {
    let folder = Folder::new("pause");
    let script = format!("{RNG} for n in $(seq 40); do take; done | uniq -c | awk '{{ print \"READ\", $1, $2 }}'");
    let mut config = machine(&script);
    let console = folder.join("console");
    config["serial"] = json!({"output": {"file": console}});
    let vm = build(config::parse(&config.to_string()).unwrap()).unwrap();
    vm.start().unwrap();
    let mut pauses = 0;
    let outcome = loop {
        if let Some(outcome) = vm.wait_timeout(Duration::from_millis(20)) {
            break outcome;
        }
        if vm.pause().is_ok() {
            pauses += 1;
            // The guest may have ended in between.
            let _ = vm.resume();
        }
        assert!(Duration::from_millis(20) * pauses < LIMIT);
    };
    let console = fs::read_to_string(console).unwrap();
    assert_eq!(outcome, Outcome::Exited(0), "{console}");
    assert!(
        console.contains("READ 40 100") && pauses > 5,
        "{pauses} pauses: {console}"
    );
}
