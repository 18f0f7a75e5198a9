//! Virtio devices that can be built. Data alone, like all of a spec.
use std::{path::PathBuf, time::Duration};

/// Limits on throughput and operations; an absent bucket limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitsSpec {
    /// Tokens are bytes.
    pub bandwidth: Option<BucketSpec>,
    /// Tokens are operations.
    pub ops: Option<BucketSpec>,
}

/// A token bucket. A size or refill time of 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSpec {
    /// Tokens that the bucket holds, and has at the start.
    pub size: u64,
    /// Extra tokens at the start.
    pub one_time_burst: u64,
    /// The time in which an empty bucket becomes full.
    pub refill_time: Duration,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// Its name, and its serial number in the guest.
    pub id: String,
    /// The files or block devices that it is made of, at least one.
    pub paths: Vec<PathBuf>,
    /// Bytes that go to each of them in turn, a power of two; without it they follow each other.
    pub stripe: Option<u64>,
    /// The file that keeps what is written; then `paths` are only read.
    pub overlay: Option<PathBuf>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whether requests go past the host's page cache.
    pub direct: bool,
    /// Whether flushes reach the host's storage, and are offered.
    pub writeback: bool,
    /// Whether io_uring carries requests out.
    pub uring: bool,
    /// Queues, at least 1.
    pub queues: u16,
    /// Whether the guest may give blocks back.
    pub discard: bool,
    /// Limits on all queues together.
    pub limits: LimitsSpec,
}

/// A source of random numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RngSpec {
    /// Limits on bytes and requests.
    pub limits: LimitsSpec,
}

/// A device that gives guest memory back to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonSpec {
    /// Bytes that the guest shall give up at first.
    pub bytes: u64,
    /// Whether the guest may take memory back before it runs out.
    pub deflate_on_oom: bool,
    /// How often the guest is asked for statistics; zero never asks.
    pub statistics: Duration,
    /// Whether the guest can be asked for its unused pages.
    pub hinting: bool,
    /// Whether the guest tells of unused pages by itself.
    pub reporting: bool,
    /// Whether the guest's memory is of the host's pool of 2 MiB pages, which go back as wholes only.
    pub pool_pages: bool,
}

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

/// Sockets between host and guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockSpec {
    /// The guest's address, 3 to 2^32 - 2.
    pub guest_cid: u32,
    /// The Unix socket for connections to the guest; those from the guest go to `<uds_path>_<port>`.
    pub uds_path: PathBuf,
}
