//! The machine's first steps: file systems, the kernel command line, modules.
use crate::GuestError;
use coracle_protocol::cmdline::Cmdline;
use rustix::{
    fs::{Mode, OFlags, mkdir, open},
    io::Errno,
    mount::{MountFlags, mount},
    system::finit_module,
};
use std::{ffi::CStr, fs, io, path::PathBuf};

/// A file system of the kernel and where it goes.
struct Mount {
    kind: &'static str,
    target: &'static str,
    options: Option<&'static CStr>,
    flags: MountFlags,
}

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const PROC: Mount = Mount {
    kind: "proc",
    target: "/proc",
    options: None,
    flags: NO_PROGRAMS,
};

/// In the order in which they are mounted.
const REST: &[Mount] = &[
    Mount {
        kind: "sysfs",
        target: "/sys",
        options: None,
        flags: NO_PROGRAMS,
    },
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        options: Some(c"mode=0755"),
        flags: MountFlags::NOSUID,
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        options: Some(c"mode=0620,ptmxmode=0666"),
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        options: Some(c"mode=1777"),
        flags: NO_DEVICES,
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        options: Some(c"mode=0755"),
        flags: NO_DEVICES,
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        options: Some(c"mode=1777"),
        flags: NO_DEVICES,
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        options: None,
        flags: NO_PROGRAMS,
    },
];

/// Mounts `/proc`, which says what PID 1 shall do.
pub(crate) fn mount_proc() -> Result<(), GuestError> {
    PROC.mount()
}

/// Mounts everything else.
pub(crate) fn mount_rest() -> Result<(), GuestError> {
    REST.iter().try_for_each(Mount::mount)
}

impl Mount {
    fn mount(&self) -> Result<(), GuestError> {
        // What is there already is fine, and what cannot be made fails in the next line.
        let _ = mkdir(self.target, Mode::from_raw_mode(0o755));
        match mount(self.kind, self.target, self.kind, self.flags, self.options) {
            Ok(()) | Err(Errno::BUSY) => Ok(()),
            Err(errno) => Err(GuestError::step(format!("mount {} on {}", self.kind, self.target))(
                errno,
            )),
        }
    }
}

/// The kernel command line.
pub(crate) fn cmdline() -> Result<Cmdline, GuestError> {
    let bytes = fs::read("/proc/cmdline").map_err(|source| GuestError::Step {
        wish: "read /proc/cmdline".to_string(),
        source,
    })?;
    Ok(Cmdline::parse(&String::from_utf8_lossy(&bytes)))
}

/// Loads `/modules/*` in the order of their names: one open, load and close each, and nothing on the console.
pub(crate) fn load_modules() -> Result<(), GuestError> {
    let files = list_modules().map_err(|source| GuestError::Step {
        wish: "list /modules".to_string(),
        source,
    })?;
    for path in files {
        let loaded =
            open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).and_then(|file| finit_module(&file, c"", 0));
        match loaded {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(GuestError::step(format!("load the module {}", path.display()))(errno)),
        }
    }
    Ok(())
}

fn list_modules() -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir("/modules") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
