//! `spec`: a configuration to start from, for a shell in a folder `rootfs`.
use crate::arguments::Spec;
use coracle_guest::container::{Error, Result};
use rustix::process::{getgid, getuid};
use serde_json::{Value, json};
use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

/// Writes it, unless there is one.
pub(crate) fn write(wish: &Spec) -> Result<()> {
    let path = wish
        .bundle
        .clone()
        .unwrap_or_else(|| PathBuf::from("."))
        .join("config.json");
    let step = || format!("write a new {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(Error::step(step()))?;
    writeln!(file, "{:#}", template(wish.rootless)).map_err(Error::step(step()))
}

fn template(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let mut namespaces: Vec<_> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    let mut set = |key: &str, value: Value| {
        linux
            .as_object_mut()
            .and_then(|linux| linux.insert(key.to_owned(), value))
    };
    if rootless {
        namespaces.push(json!({ "type": "user" }));
        set(
            "uidMappings",
            json!([{ "containerID": 0, "hostID": getuid().as_raw(), "size": 1 }]),
        );
        set(
            "gidMappings",
            json!([{ "containerID": 0, "hostID": getgid().as_raw(), "size": 1 }]),
        );
    } else {
        set("resources", json!({ "devices": [{ "allow": false, "access": "rwm" }] }));
    }
    set("namespaces", json!(namespaces));
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "coracle",
        "mounts": mounts(rootless),
        "linux": linux,
    })
}

fn mounts(rootless: bool) -> Value {
    // Group 5, of terminals, is not mapped where there is one group only.
    let terminals: &[&str] = if rootless { &[] } else { &["gid=5"] };
    let options = |own: &[&str]| json!([own, terminals].concat());
    let devpts = options(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    let quiet = ["nosuid", "noexec", "nodev"];
    let shm = [&quiet[..], &["mode=1777", "size=65536k"]].concat();
    let read_only = [&quiet[..], &["ro"]].concat();
    let cgroups = [&read_only[..], &["relatime"]].concat();
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": shm },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": read_only },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": cgroups },
    ])
}
