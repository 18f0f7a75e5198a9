//! What coracle cannot do yet: refused by name rather than ignored. Pure, like all of `check`.
//!
//! Each row here disappears with the change that brings the feature.
use super::super::error::ConfigError;
use super::super::raw::{CpuTemplate, VmConfig};

/// A key that asks for something that is missing.
struct Gap {
    path: &'static str,
    asked: bool,
    value: &'static str,
    lack: &'static str,
    remedy: &'static str,
}

/// Refuses the first thing that is asked for and missing.
pub(super) fn refuse_missing(config: &VmConfig) -> Result<(), ConfigError> {
    let gaps = machine(config)
        .into_iter()
        .chain(devices(config))
        .chain(services(config));
    match gaps.into_iter().find(|gap| gap.asked) {
        None => Ok(()),
        Some(gap) => Err(ConfigError::Unsupported {
            path: gap.path.to_owned(),
            value: gap.value.to_owned(),
            lack: gap.lack,
            remedy: gap.remedy.to_owned(),
        }),
    }
}

const SET: &str = "set";
const NOT_EMPTY: &str = "not empty";
const REMOVE: &str = "Remove the key";

fn machine(config: &VmConfig) -> [Gap; 5] {
    let machine = &config.machine_config;
    let template = machine.cpu_template;
    [
        Gap {
            path: "machine-config.smt",
            asked: machine.smt,
            value: "true",
            lack: "does not show the guest threads of one core",
            remedy: "Remove the key, or set it to false",
        },
        Gap {
            path: "machine-config.track_dirty_pages",
            asked: machine.track_dirty_pages,
            value: "true",
            lack: "does not track the pages that a guest writes",
            remedy: "Remove the key, or set it to false",
        },
        Gap {
            path: "machine-config.cpu_template",
            asked: template.is_some_and(|template| template != CpuTemplate::None),
            value: SET,
            lack: "has no CPU templates",
            remedy: "Remove the key, or set it to \"None\"",
        },
        Gap {
            path: "machine-config.gdb_socket_path",
            asked: machine.gdb_socket_path.is_some(),
            value: SET,
            lack: "does not serve a debugger",
            remedy: REMOVE,
        },
        Gap {
            path: "cpu-config",
            asked: config.cpu_config.is_some(),
            value: SET,
            lack: "has no CPU templates",
            remedy: REMOVE,
        },
    ]
}

fn devices(config: &VmConfig) -> [Gap; 7] {
    let gap = |path, asked, value, lack, remedy| Gap {
        path,
        asked,
        value,
        lack,
        remedy,
    };
    let boot = "Remove the key, and boot from an initrd or a kernel bundle";
    [
        gap(
            "drives",
            !config.drives.is_empty(),
            NOT_EMPTY,
            "has no block devices",
            boot,
        ),
        gap(
            "pmem",
            !config.pmem.is_empty(),
            NOT_EMPTY,
            "has no persistent memory devices",
            boot,
        ),
        gap(
            "network-interfaces",
            !config.network_interfaces.is_empty(),
            NOT_EMPTY,
            "has no network devices",
            REMOVE,
        ),
        gap("vsock", config.vsock.is_some(), SET, "has no vsock device", REMOVE),
        gap(
            "entropy",
            config.entropy.is_some(),
            SET,
            "has no entropy device",
            REMOVE,
        ),
        gap(
            "balloon",
            config.balloon.is_some(),
            SET,
            "has no memory balloon",
            REMOVE,
        ),
        gap(
            "memory-hotplug",
            config.memory_hotplug.is_some(),
            SET,
            "cannot add memory to a running guest",
            REMOVE,
        ),
    ]
}

fn services(config: &VmConfig) -> [Gap; 3] {
    let limited = config
        .serial
        .as_ref()
        .is_some_and(|serial| serial.rate_limiter.is_some());
    [
        Gap {
            path: "mmds-config",
            asked: config.mmds_config.is_some(),
            value: SET,
            lack: "has no metadata service",
            remedy: REMOVE,
        },
        Gap {
            path: "metrics",
            asked: config.metrics.is_some(),
            value: SET,
            lack: "writes no metrics",
            remedy: REMOVE,
        },
        Gap {
            path: "serial.rate_limiter",
            asked: limited,
            value: SET,
            lack: "does not limit serial output",
            remedy: REMOVE,
        },
    ]
}
