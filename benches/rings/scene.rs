//! What is measured: a device, a kind of request, and how many of them are under way.
use crate::{
    Outcome, disk,
    network::{Echo, TAP},
    stats::Counters,
};
use coracle::{
    builder,
    config::{
        self,
        spec::{SerialInput, SerialOutput},
    },
};
use coracle_arch::{Arch, Host};
use coracle_ring3::order::{Order, Report};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// The longest that one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Memory of the guest.
const MEMORY_MIB: u64 = 64;

/// The device that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// Random numbers.
    Rng,
    /// A disk in the page cache, with this engine.
    Disk(&'static str),
    /// A network card whose frames a thread of this process sends back.
    Socket,
    /// A network card at a TAP interface, where the kernel answers.
    Tap,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) name: String,
    pub(crate) device: Device,
    /// What is asked of it; `requests` and `window` are filled in for each run.
    pub(crate) order: Order,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) report: Report,
    /// KVM's counters of the guest's first vCPU, from its start to its end.
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) tsc_khz: u64,
}

impl Scene {
    /// Runs the guest once, with files in `folder`.
    pub(crate) fn run(&self, folder: &Path, requests: u64) -> Outcome<Run> {
        let (kernel, console) = (folder.join("guest"), folder.join("console"));
        fs::write(&kernel, coracle_ring3::IMAGE)?;
        let slot = Host::VIRTIO_SLOTS
            .part(0)
            .ok_or("the board has no place for a virtio device")?;
        let order = Order {
            window: slot.base,
            requests,
            ..self.order
        };
        let mut config = json!({
            "boot-source": { "kernel_image_path": kernel, "boot_args": order.to_string() },
            "machine-config": { "vcpu_count": 2, "mem_size_mib": MEMORY_MIB, "virtio_transport": "Mmio" },
        });
        if let (Some(config), Value::Object(keys)) = (config.as_object_mut(), self.keys(folder)?) {
            config.extend(keys);
        }
        let mut spec = config::parse(&config.to_string())?;
        spec.serial.input = SerialInput::None;
        spec.serial.output = SerialOutput::File(console.clone());
        let vm = builder::build(spec)?;
        let counters = Counters::of_the_vm()?;
        let echo = match self.device {
            Device::Socket => Some(Echo::start(&socket(folder))?),
            _ => None,
        };
        vm.start()?;
        let outcome = vm.wait_timeout(LIMIT).unwrap_or_else(|| vm.stop());
        drop(vm);
        echo.map(Echo::end).transpose()?;
        let text = fs::read_to_string(console)?;
        let report = Report::parse(&text).map_err(|text| format!("{outcome}; {text}"))?;
        Ok(Run {
            report,
            counters: counters.read()?,
            tsc_khz: counters.tsc_khz,
        })
    }

    /// The keys of a config that make the device.
    fn keys(&self, folder: &Path) -> Outcome<Value> {
        Ok(match self.device {
            Device::Rng => json!({ "entropy": {} }),
            Device::Disk(engine) => {
                let path = disk::make(folder, self.order.write)?;
                json!({ "drives": [{
                    "drive_id": "disk", "is_root_device": false, "path_on_host": path,
                    "is_read_only": !self.order.write, "io_engine": engine,
                }] })
            }
            Device::Socket => json!({ "network-interfaces": [{
                "iface_id": "net", "socket": { "path": socket(folder), "listen": true },
            }] }),
            Device::Tap => json!({ "network-interfaces": [{ "iface_id": "net", "host_dev_name": TAP }] }),
        })
    }
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join("socket")
}
