//! Messages about the guest as a machine: mounts, frozen file systems, entropy, clock, power.
use serde::{Deserialize, Serialize};

/// Mount a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A device, a folder for `bind`, or a name.
    pub source: String,
    /// Where.
    pub target: String,
    /// `ext4`, `tmpfs`; empty for `bind` and `remount`.
    #[serde(default)]
    pub kind: String,
    /// As mount(8) names them: `ro`, `nosuid`, `nodev`, `noexec`, `noatime`, `relatime`, `sync`, `dirsync`, `bind`,
    /// `rbind`, `remount`, `private`, `rprivate`, `slave`, `rslave`, `shared`, `rshared`.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Options for the file system itself.
    #[serde(default)]
    pub data: String,
    /// Make the target, and those above it, if it is missing.
    #[serde(default)]
    pub mkdir: bool,
}

/// Take a mount away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Umount {
    /// Which.
    pub target: String,
    /// Out of sight now, away when nobody uses it any more.
    #[serde(default)]
    pub lazy: bool,
}

/// Hold a file system still.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// A folder on it.
    pub path: String,
}

/// Let a file system go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thaw {
    /// A folder on it.
    pub path: String,
}

/// Bytes that an [`Entropy`] may have.
pub const MAX_ENTROPY: usize = 4096;

/// Random bytes from the host. After a snapshot two guests may otherwise draw the same numbers.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entropy {
    /// At most [`MAX_ENTROPY`].
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// They are secrets: logs do not show them.
impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entropy({} bytes)", self.bytes.len())
    }
}

/// Read the clock, or set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The time, in nanoseconds since 1970; reads alone without one.
    #[serde(default)]
    pub set: Option<u64>,
}

/// The clocks, after they were set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// Nanoseconds since 1970.
    pub now: u64,
    /// Microseconds since the kernel started.
    pub boot: u64,
}

/// Write what is not on disks yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync {}

/// Power off or restart. Processes are asked to end, then killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// Restart.
    #[serde(default)]
    pub restart: bool,
    /// How long processes get to end, in milliseconds; they are killed at once without it.
    #[serde(default)]
    pub grace_ms: u32,
}
