//! What clients and the keeper say to each other, and the keeper to whoever starts it. Words only.
use super::HostArch;
use serde::{Deserialize, Serialize};

/// A client's first message on the keeper's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    /// Connect me with the agent. After [`Answer::Opened`] the connection belongs to client and agent.
    Open,
    /// How are you?
    Status,
    /// Tear the host down.
    Down,
}

/// The keeper's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Opened,
    Status(Status),
    /// The host is being torn down; the connection closes when it is gone.
    GoingDown,
    Refused(String),
}

/// What a keeper tells its starter on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Starting {
    Progress(String),
    Ready { warning: Option<String> },
    Failed(String),
}

/// A running host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the protocol between client and agent.
    pub protocol: u32,
    /// Its architecture.
    pub arch: HostArch,
    /// Process of the keeper.
    pub keeper: u32,
    /// Process of QEMU.
    pub qemu: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Seconds since it was ready.
    pub up_seconds: u64,
    /// Milliseconds from the start of QEMU until it was ready.
    pub boot_ms: u64,
    /// Clients connected now.
    pub clients: usize,
    /// Seconds until it is torn down, if no client comes.
    pub idle_seconds_left: u64,
    /// The kernel that it runs.
    pub kernel: String,
    /// What its user should know, such as an erratum that could not be worked around.
    pub warning: Option<String>,
}
