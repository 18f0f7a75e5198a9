//! The emulated host: QEMU with nested virtualisation and a stock kernel, which offers `/dev/kvm` inside.
//!
//! ```text
//! coracle host exec ─┐ Unix socket            ┌─ TCP, dialled from inside ─┐
//! cargo's runner ────┼──────────────▶ keeper ─┤                            ├─ agent (PID 1) ─ command
//! Host::connect… ────┘                 │ owns └─ control: ping, dial       ┘
//!                                      └─ QEMU (dies with it)
//! ```
//! A detached process, the keeper, owns QEMU and keeps it warm; clients come and go. The library never prints and
//! never exits: progress goes to the caller's closure.
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

mod client;
mod erratum;
mod keeper;
mod kvm;
mod machine;
mod once;
mod place;
mod proxy;
mod root;
mod runner;
mod terminal;
mod wire;

pub use client::{Host, Session, Signals, Stdin};
pub use coracle_protocol::agent::{Exec, Window};
pub use keeper::keep;
pub use kvm::{HostChoice, KvmKind, kvm_kind};
pub use once::Once;
pub use proxy::{Proxy, run_self, with_host};
pub use runner::Runner;
pub use terminal::RawTerminal;
pub use wire::Status;

pub(crate) use erratum::is_known as erratum_is_known;
pub(crate) use place::find_program;

/// An architecture that can be emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostArch {
    /// AMD SVM.
    X86_64,
    /// Arm EL2.
    Aarch64,
}

impl HostArch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// As in `uname -m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// By its name, as `uname -m` or Debian spells it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name || a.debian() == name)
    }

    /// That of this program.
    pub fn native() -> Option<Self> {
        Self::from_name(env::consts::ARCH)
    }

    /// Whether it is that of this program.
    pub fn is_native(self) -> bool {
        Self::native() == Some(self)
    }

    /// Debian's name for it.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// QEMU's program for it and Debian's package with that program.
    pub(crate) const fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// The dynamic loader and its folder below the root.
    pub(crate) const fn loader(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("ld-linux-x86-64.so.2", "lib64"),
            Self::Aarch64 => ("ld-linux-aarch64.so.1", "lib"),
        }
    }

    /// The environment variable `prefix` for this architecture, as `CORACLE_GUEST_AARCH64`.
    pub(crate) fn variable(self, prefix: &str) -> String {
        format!("{prefix}_{}", self.name().to_uppercase())
    }
}

impl std::fmt::Display for HostArch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a host is started. An existing one is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its memory in MiB. Taken from the machine as it is used, not at once.
    pub memory_mib: u32,
    /// It is torn down after so long without a client.
    pub idle: Duration,
    /// The program whose `host keep` becomes the keeper; by default this one if it is `coracle`, else a `coracle`
    /// beside it, above it or in `$PATH`.
    pub program: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_mib: 3072,
            idle: Duration::from_secs(600),
            program: None,
        }
    }
}

/// Why the emulated host could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file or folder refused.
    #[error("cannot {wish} {}", path.display())]
    File {
        /// What was asked, as "read".
        wish: &'static str,
        /// Of which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A state folder that others can write.
    #[error("{} is not a folder that belongs to you alone; remove it, or set XDG_RUNTIME_DIR to one that does", .0.display())]
    Unsafe(PathBuf),
    /// No place for the cache.
    #[error("neither XDG_CACHE_HOME nor HOME is set; set one of them, so that downloads have a place")]
    NoCache,
    /// Another starter takes too long.
    #[error(
        "another process has been starting or stopping the emulated host for {seconds} seconds; try `coracle host down`"
    )]
    Busy {
        /// How long it was waited for.
        seconds: u64,
    },
    /// QEMU is not installed.
    #[error("{program} is not in PATH; install it, on Debian with `apt-get install {package}`")]
    NoQemu {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// Too little memory.
    #[error(
        "the emulated host wants {wanted} MiB of memory and this machine has {free} MiB free; try --memory with less, but at least 512"
    )]
    Memory {
        /// What was asked for.
        wanted: u32,
        /// What is available.
        free: u64,
    },
    /// No kernel to be had.
    #[error("no kernel for the emulated {arch} host; set {} to an unpacked kernel package (boot/vmlinuz-*, lib/modules/*)", arch.variable("CORACLE_HOST_KERNEL"))]
    Kernel {
        /// For which host.
        arch: HostArch,
        /// Why Debian's could not be had.
        source: Box<crate::bundle::debian::DebianError>,
    },
    /// A kernel package without a kernel.
    #[error("no file in {} begins with `vmlinuz-`; give the folder of an unpacked kernel package", .0.display())]
    NoKernelImage(PathBuf),
    /// No userland to be had.
    #[error("no busybox for the emulated {arch} host; install the package busybox-static")]
    Busybox {
        /// For which host.
        arch: HostArch,
        /// Why Debian's could not be had.
        source: Box<crate::bundle::debian::DebianError>,
    },
    /// The kernel lacks a module.
    #[error("the kernel's modules cannot be used")]
    Modules(#[from] crate::bundle::modules::ModuleError),
    /// The initial file system cannot be written.
    #[error("the emulated host's initial file system cannot be made")]
    Initrd(#[from] crate::bundle::cpio::CpioError),
    /// A program of this project is missing.
    #[error("cannot find {name} for {arch}; build it for {arch} or set {variable} to it")]
    NoProgram {
        /// Its name.
        name: &'static str,
        /// For which architecture.
        arch: HostArch,
        /// The variable that names it.
        variable: String,
    },
    /// The host did not come up, in the keeper's words.
    #[error("the emulated {arch} host did not start: {reason}")]
    Start {
        /// Which one.
        arch: HostArch,
        /// What happened, with the end of its console.
        reason: String,
    },
    /// The host went away in the middle.
    #[error("the emulated {arch} host went away: {reason}")]
    Lost {
        /// Which one.
        arch: HostArch,
        /// Why, as far as known.
        reason: String,
        /// Nothing came out of it yet, so the work can be done again in a new host.
        again: bool,
    },
    /// The host refused; its words say what and why.
    #[error("{0}")]
    Refused(String),
    /// A command could not be started in the host.
    #[error("{reason}")]
    Command {
        /// 127 if it is not there, 126 otherwise.
        code: u8,
        /// What and why.
        reason: String,
    },
    /// The other side's words make no sense.
    #[error("the connection to the emulated host broke")]
    Wire(#[from] coracle_protocol::frame::FrameError),
    /// Files could not be copied.
    #[error("the copy failed")]
    Copy(#[from] coracle_protocol::tree::TreeError),
}

/// Finds one of this project's programs for an architecture: named by `<prefix>_<ARCH>`, else the newest of those
/// beside this executable and in cargo's target folder around it.
pub(crate) fn find_sibling(name: &'static str, prefix: &str, arch: HostArch) -> Result<PathBuf, HostError> {
    let variable = arch.variable(prefix);
    if let Some(path) = env::var_os(&variable) {
        return Ok(PathBuf::from(path));
    }
    let exe = env::current_exe().unwrap_or_default();
    candidates(&exe, name, arch)
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
        .ok_or(HostError::NoProgram { name, arch, variable })
}

fn candidates(exe: &Path, name: &str, arch: HostArch) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Some(dir) = exe.parent() else { return found };
    // A test binary lies in target/debug/deps.
    let dirs: Vec<&Path> = dir.ancestors().take(2).collect();
    for dir in &dirs {
        found.push(dir.join(format!("{name}-{}", arch.name())));
        if arch.is_native() {
            found.push(dir.join(name));
        }
    }
    for target in dir.ancestors().skip(1).take(3) {
        for base in [target.to_path_buf(), target.join("cross")] {
            for profile in ["guest", "release", "debug"] {
                let triple = format!("{}-unknown-linux-gnu", arch.name());
                found.push(base.join(triple).join(profile).join(name));
            }
        }
    }
    found
}

/// The program that can be started as the keeper.
fn keeper_program(options: &Options) -> Result<PathBuf, HostError> {
    if let Some(program) = &options.program {
        return Ok(program.clone());
    }
    let exe = env::current_exe().unwrap_or_default();
    let near = exe.ancestors().skip(1).take(2).map(|dir| dir.join("coracle"));
    if exe.file_name().is_some_and(|name| name == "coracle") && exe.is_file() {
        return Ok(exe);
    }
    near.chain(find_program("coracle"))
        .find(|path| path.is_file())
        .ok_or(HostError::NoProgram {
            name: "coracle",
            arch: HostArch::native().unwrap_or(HostArch::X86_64),
            variable: "PATH".to_string(),
        })
}

/// QEMU's program for an architecture, and Debian's package with it.
pub(crate) fn qemu_of(arch: HostArch) -> (&'static str, &'static str) {
    arch.qemu()
}

/// Memory that the machine could give, in MiB; `None` where it does not tell.
pub(crate) fn free_memory_mib() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// An error with its causes in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
