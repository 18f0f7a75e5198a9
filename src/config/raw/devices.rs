//! Devices as typed: drives, network, sockets, memory devices, metadata and metrics. Pure data, like all of `raw`.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A block device: a file or host block device, or a vhost-user server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Name of the drive, its own among the drives.
    #[schemars(example = &"rootfs")]
    pub drive_id: String,
    /// Whether the guest's root file system is on it; at most one drive or pmem device may say so.
    #[schemars(example = true)]
    pub is_root_device: bool,
    /// File or block device on the host. Either this or `socket`.
    #[schemars(example = &"rootfs.ext4")]
    pub path_on_host: Option<PathBuf>,
    /// Whether the guest may only read; without it false.
    pub is_read_only: Option<bool>,
    /// Unique id of the partition with the root file system, if the drive is partitioned; only on the root device.
    #[schemars(example = &"0eaa91a0-01")]
    pub partuuid: Option<String>,
    /// Whether the guest can flush the drive; without it "Unsafe".
    pub cache_type: Option<CacheType>,
    /// How requests are carried out; without it "Sync".
    pub io_engine: Option<IoEngine>,
    /// Limits on throughput and requests.
    pub rate_limiter: Option<RateLimiter>,
    /// Unix socket of a vhost-user server. Either this or `path_on_host`.
    #[schemars(example = &"blk.socket")]
    pub socket: Option<PathBuf>,
    /// Whether the guest may give blocks back; without it false.
    pub discard: Option<bool>,
    /// coracle's own: whether requests go past the host's page cache; without it false.
    pub direct_io: Option<bool>,
    /// coracle's own: queues of the drive, each with a thread; without it 1.
    #[schemars(range(min = 1, max = 64))]
    pub num_queues: Option<u64>,
    /// coracle's own: file that keeps what the guest writes, so that `path_on_host` stays as it is and many VMs can share
    /// it; made if it does not exist.
    pub overlay: Option<PathBuf>,
    /// coracle's own: more files or block devices that make one drive with `path_on_host`, in this order.
    #[serde(default)]
    pub further_paths: Vec<PathBuf>,
    /// coracle's own: KiB that go to each file in turn, a power of two from 4 on; without it the files follow each other.
    #[schemars(range(min = 4, max = 1_048_576))]
    pub stripe_kib: Option<u64>,
}

/// Whether a guest can flush a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CacheType {
    /// No flushes.
    Unsafe,
    /// A flush of the guest reaches the host's storage.
    Writeback,
}

/// How requests to a drive are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IoEngine {
    /// One after the other.
    Sync,
    /// Through io_uring.
    Async,
}

/// A persistent memory device over a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pmem {
    /// Name of the device, its own among the pmem devices.
    #[schemars(example = &"pmem0")]
    pub id: String,
    /// File on the host.
    #[schemars(example = &"rootfs.ext4")]
    pub path_on_host: PathBuf,
    /// Whether the guest's root file system is on it; at most one drive or pmem device may say so.
    #[serde(default)]
    pub root_device: bool,
    /// Whether the guest may only read.
    #[serde(default)]
    pub read_only: bool,
    /// Limits on throughput and requests.
    pub rate_limiter: Option<RateLimiter>,
}

/// Limits on throughput and operations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are operations.
    pub ops: Option<TokenBucket>,
}

/// A token bucket: starts full, is refilled steadily. A size or refill time of 0 means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens that the bucket holds.
    #[schemars(example = 1_048_576)]
    pub size: u64,
    /// Extra tokens at the start, which are never refilled; without it none.
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket becomes full.
    #[schemars(example = 1000)]
    pub refill_time: u64,
}

/// Sockets between host and guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// Address of the guest, at least 3.
    #[schemars(example = 3, range(min = 3, max = 4_294_967_294_u32))]
    pub guest_cid: u64,
    /// Unix socket on the host at which connections to the guest are opened, at most 107 bytes.
    #[schemars(example = &"v.sock")]
    pub uds_path: PathBuf,
    /// Deprecated name of the device; has no effect.
    pub vsock_id: Option<String>,
}

/// A source of random numbers for the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entropy {
    /// Limits on throughput and requests.
    pub rate_limiter: Option<RateLimiter>,
}

/// A device that gives guest memory back to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// MiB that the guest shall give back; less than the machine's memory.
    #[schemars(example = 64)]
    pub amount_mib: u64,
    /// Whether the guest may take memory back before it runs out.
    #[schemars(example = true)]
    pub deflate_on_oom: bool,
    /// Seconds between statistics; 0 or without it none.
    #[serde(default)]
    #[schemars(range(max = 65535))]
    pub stats_polling_interval_s: u64,
    /// Whether the host may ask for unused pages.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// Whether the guest tells of unused pages by itself.
    #[serde(default)]
    pub free_page_reporting: bool,
}

/// The guest's console and further byte channels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// The device that the guest's console is. Without it "virtio" if `boot_args` names a console hvc0, or if a kernel
    /// bundle is booted without `boot_args`; else "serial". Either leads where `serial` says.
    pub device: Option<ConsoleDevice>,
    /// Byte channels with names, for programs in the guest.
    #[serde(default)]
    pub ports: Vec<ConsolePort>,
}

/// The device that the guest's console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// A virtio console, hvc0 in Linux; the serial port serves until its driver is there.
    Virtio,
    /// The first serial port, ttyS0 in Linux.
    Serial,
}

/// A byte channel between host and guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsolePort {
    /// The name by which programs in the guest find it, as in /dev/virtio-ports/NAME.
    #[schemars(example = &"org.example.channel")]
    pub name: String,
    /// Where it leads on the host.
    #[schemars(example = example_target())]
    pub to: ConsoleTarget,
}

/// Where a byte channel leads on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleTarget {
    /// Standard input and output of the VMM.
    Stdio,
    /// A new pseudo-terminal, whose name is logged.
    Pty,
    /// A file, truncated first; the guest reads nothing from it.
    File(PathBuf),
    /// A Unix socket that is made; one client at a time is connected with the guest.
    Socket(PathBuf),
}

fn example_target() -> serde_json::Value {
    serde_json::json!({ "socket": "port.sock" })
}

/// Memory that can be added while the guest runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplug {
    /// MiB that can be added in all; a multiple of the slot size.
    #[schemars(example = 1024)]
    pub total_size_mib: u64,
    /// MiB that the host adds at once, a multiple of the block size; without it 128.
    #[schemars(range(min = 128))]
    pub slot_size_mib: Option<u64>,
    /// MiB that the guest adds at once, a power of two; without it 2.
    #[schemars(range(min = 2))]
    pub block_size_mib: Option<u64>,
}

/// The metadata service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MmdsConfig {
    /// Which protocol the guest must speak; without it "V1".
    pub version: Option<MmdsVersion>,
    /// The network devices, by `iface_id`, over which the guest reaches the service.
    #[schemars(example = ["eth0"])]
    pub network_interfaces: Vec<String>,
    /// Link-local address of the service; without it 169.254.169.254.
    #[schemars(example = &"169.254.169.254")]
    pub ipv4_address: Option<String>,
    /// Whether answers are always in the format of AWS's service.
    #[serde(default)]
    pub imds_compat: bool,
}

/// Which protocol the metadata service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MmdsVersion {
    /// Plain requests.
    V1,
    /// Requests with a session token.
    V2,
}

/// Where metrics go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// File or FIFO.
    #[schemars(example = &"metrics.json")]
    pub metrics_path: PathBuf,
    /// Whether each record names the VM; without it false.
    pub emit_id: Option<bool>,
    /// Names and values that each record shall carry.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}
