//! What is measured: a device, a kind of request, and how many of them are under way.
use crate::{Outcome, stats::Counters};
use coracle::{
    builder,
    config::{self, spec::SerialInput, spec::SerialOutput},
};
use coracle_arch::{Arch, Host};
use coracle_ring3::order::{Order, Report};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// The longest that one run may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Memory of the guest.
const MEMORY_MIB: u64 = 64;

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// The device and how it carries requests out.
    pub(crate) name: &'static str,
    /// The keys of a config that the device needs.
    pub(crate) keys: Value,
    /// What is asked of it; `requests` is filled in for each run.
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
            "machine-config": { "vcpu_count": 2, "mem_size_mib": MEMORY_MIB },
        });
        if let (Some(config), Some(keys)) = (config.as_object_mut(), self.keys.as_object()) {
            config.extend(keys.clone());
        }
        let mut spec = config::parse(&config.to_string())?;
        spec.serial.input = SerialInput::None;
        spec.serial.output = SerialOutput::File(console.clone());
        let vm = builder::build(spec)?;
        let counters = Counters::of_the_vm()?;
        vm.start()?;
        let outcome = vm.wait_timeout(LIMIT).unwrap_or_else(|| vm.stop());
        let text = fs::read_to_string(console)?;
        let report = Report::parse(&text).map_err(|text| format!("{}: {outcome}; {text}", self.name))?;
        Ok(Run {
            report,
            counters: counters.read()?,
            tsc_khz: counters.tsc_khz,
        })
    }
}
