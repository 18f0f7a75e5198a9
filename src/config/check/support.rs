//! What coracle cannot do yet: refused by name rather than ignored. Pure, like all of `check`.
//!
//! Each row here disappears with the change that brings the feature.
use super::super::raw::{CpuTemplate, VmConfig};
use super::super::{error::ConfigError, shown::quoted};

/// A key that may ask for something that is missing.
struct Gap {
    path: &'static str,
    /// What the config asks for, if it does.
    asked: Option<String>,
    lack: &'static str,
    remedy: &'static str,
}

/// Refuses the first thing that is asked for and missing.
pub(super) fn refuse_missing(config: &VmConfig) -> Result<(), ConfigError> {
    let gaps = machine(config)
        .into_iter()
        .chain(services(config))
        .chain(devices(config));
    match gaps
        .into_iter()
        .find_map(|gap| Some((gap.asked?, gap.path, gap.lack, gap.remedy)))
    {
        None => vhost_user(config),
        Some((value, path, lack, remedy)) => Err(ConfigError::Unsupported {
            path: path.to_owned(),
            value,
            lack,
            remedy: remedy.to_owned(),
        }),
    }
}

const REMOVE: &str = "Remove the key";
const FALSE: &str = "Remove the key, or set it to false";

fn machine(config: &VmConfig) -> [Gap; 5] {
    let machine = &config.machine_config;
    let template = machine.cpu_template.filter(|template| *template != CpuTemplate::None);
    let gdb = machine.gdb_socket_path.as_ref();
    [
        Gap {
            path: "machine-config.smt",
            asked: machine.smt.then(|| "true".to_owned()),
            lack: "does not show the guest threads of one core",
            remedy: FALSE,
        },
        Gap {
            path: "machine-config.track_dirty_pages",
            asked: machine.track_dirty_pages.then(|| "true".to_owned()),
            lack: "does not track the pages that a guest writes",
            remedy: FALSE,
        },
        Gap {
            path: "machine-config.cpu_template",
            asked: template.map(|template| format!("\"{template:?}\"")),
            lack: "has no CPU templates",
            remedy: "Remove the key, or set it to \"None\"",
        },
        Gap {
            path: "machine-config.gdb_socket_path",
            asked: gdb.map(|path| quoted(&path.to_string_lossy())),
            lack: "does not serve a debugger",
            remedy: REMOVE,
        },
        Gap {
            path: "cpu-config",
            asked: set(config.cpu_config.as_ref()),
            lack: "has no CPU templates",
            remedy: REMOVE,
        },
    ]
}

fn services(config: &VmConfig) -> [Gap; 3] {
    let limiter = config.serial.as_ref().and_then(|serial| serial.rate_limiter.as_ref());
    [
        Gap {
            path: "mmds-config",
            asked: set(config.mmds_config.as_ref()),
            lack: "has no metadata service",
            remedy: REMOVE,
        },
        Gap {
            path: "metrics",
            asked: set(config.metrics.as_ref()),
            lack: "writes no metrics",
            remedy: REMOVE,
        },
        Gap {
            path: "serial.rate_limiter",
            asked: set(limiter),
            lack: "does not limit serial output",
            remedy: REMOVE,
        },
    ]
}

fn devices(config: &VmConfig) -> [Gap; 2] {
    let gap = |path, asked, lack, remedy| Gap {
        path,
        asked,
        lack,
        remedy,
    };
    let boot = "Remove the key, and boot from an initrd or a kernel bundle";
    let hotplug = config.memory_hotplug.as_ref();
    [
        gap(
            "pmem",
            not_empty(&config.pmem),
            "has no persistent memory devices",
            boot,
        ),
        gap(
            "memory-hotplug",
            set(hotplug),
            "cannot add memory to a running guest",
            REMOVE,
        ),
    ]
}

/// A drive that a server of its own serves.
fn vhost_user(config: &VmConfig) -> Result<(), ConfigError> {
    let mut drives = config.drives.iter().enumerate();
    let Some((index, socket)) = drives.find_map(|(index, drive)| Some((index, drive.socket.as_ref()?))) else {
        return Ok(());
    };
    Err(ConfigError::Unsupported {
        path: format!("drives[{index}].socket"),
        value: quoted(&socket.to_string_lossy()),
        lack: "does not speak vhost-user",
        remedy: "Name a file by path_on_host instead".to_owned(),
    })
}

fn set<T>(section: Option<&T>) -> Option<String> {
    section.map(|_| "set".to_owned())
}

fn not_empty<T>(list: &[T]) -> Option<String> {
    (!list.is_empty()).then(|| "not empty".to_owned())
}
