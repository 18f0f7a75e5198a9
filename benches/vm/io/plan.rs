//! Which VMs are measured, and with which devices. Writes what the probe reads, starts nothing.
use super::qemu::Peer;
use crate::{
    Outcome,
    emulated::{MEMORY_MIB, PLAIN, THERE},
};
use coracle_measure::io::{Order, TAP, Trial, VARIABLE, Work};
use serde_json::{Value, json};
use std::{fs, path::Path};

const DISK_MIB: u64 = 64;

/// The file behind the disk: in the memory of the host, as all that is there.
pub(super) const DISK: &str = "/bench/disk";

/// How a guest of coracle reaches its devices, as its config names it.
const TRANSPORTS: [&str; 2] = ["Mmio", "Pci"];

/// Writes the probe's order into `folder`, and the configs that it names.
pub(super) fn write(folder: &Path, peer: Option<&Peer>, only: Option<&str>) -> Outcome<()> {
    let mut trials = Vec::new();
    for transport in TRANSPORTS {
        for engine in ["Sync", "Async"] {
            let devices = json!({ "drives": [{
                "drive_id": "disk", "path_on_host": DISK, "is_root_device": false, "io_engine": engine,
            }] });
            trials.push(own(&format!("{transport} {engine}"), Work::Disk, transport, devices));
        }
        let devices = json!({ "network-interfaces": [{ "iface_id": "eth0", "host_dev_name": TAP }] });
        trials.push(own(transport, Work::Net, transport, devices));
        let path = format!("/run/vsock-{transport}");
        let devices = json!({ "vsock": { "guest_cid": 3, "uds_path": path } });
        trials.push(own(transport, Work::Vsock { path }, transport, devices));
        trials.push(own(transport, Work::Console, transport, json!({})));
    }
    let mut order = Order {
        trials: Vec::new(),
        disk: Some((DISK.to_string(), DISK_MIB)),
    };
    let wanted = |name: &str| only.is_none_or(|part| name.contains(part));
    for (number, (mut trial, config)) in (0..).zip(trials).filter(|(_, (trial, _))| wanted(&trial.name)) {
        let name = format!("{number}.json");
        fs::write(folder.join(&name), serde_json::to_vec(&config)?)?;
        trial.argv.push(format!("{THERE}/run/{name}"));
        order.trials.push(trial);
    }
    if let Some(peer) = peer {
        for work in [Work::Disk, Work::Net, Work::Console] {
            let name = format!("{} {}", work.name(), peer.name);
            if wanted(&name) {
                let argv = peer.command(&work, &cmdline(&work));
                order.trials.push(Trial { name, argv, work });
            }
        }
    }
    if order.trials.is_empty() {
        return Err("--only leaves no trial".into());
    }
    fs::write(folder.join("order.json"), serde_json::to_vec(&order)?)?;
    Ok(())
}

/// A trial of coracle without its last argument, and the config that this one names.
fn own(name: &str, work: Work, transport: &str, devices: Value) -> (Trial, Value) {
    let mut config = json!({
        "boot-source": {
            "kernel_image_path": format!("{THERE}/bundle/kernel"),
            "initrd_path": format!("{THERE}/initramfs"),
            "boot_args": cmdline(&work),
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB, "virtio_transport": transport },
    });
    if let (Some(config), Value::Object(devices)) = (config.as_object_mut(), devices) {
        config.extend(devices);
    }
    let command = [&format!("{THERE}/coracle"), "vm", "run"].map(str::to_string);
    let trial = Trial {
        name: format!("{} coracle {name}", work.name()),
        argv: command.to_vec(),
        work,
    };
    (trial, config)
}

/// The guest's kernel command line. A console is measured by all that the kernel has to say.
fn cmdline(work: &Work) -> String {
    let name = work.name();
    match work {
        Work::Console => format!("{} {VARIABLE}={name}", PLAIN.replace("ttyS0", "hvc0")),
        _ => format!("{PLAIN} quiet {VARIABLE}={name}"),
    }
}
