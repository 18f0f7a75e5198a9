//! Virtio devices that can be built. Data alone, like all of a spec.
use std::path::PathBuf;

/// A source of random numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RngSpec {}

/// Byte channels between host and guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsSpec {
    /// At least one.
    pub ports: Vec<PortSpec>,
}

/// A byte channel with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// The name by which programs in the guest find it.
    pub name: String,
    /// Where it leads on the host.
    pub to: PortTarget,
}

/// Where a byte channel leads on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortTarget {
    /// Standard input and output of this process; nothing else has them.
    Stdio,
    /// A new pseudo-terminal, whose name is logged.
    Pty,
    /// A file, truncated first.
    File(PathBuf),
    /// A Unix socket that is made; one client at a time.
    Socket(PathBuf),
}
