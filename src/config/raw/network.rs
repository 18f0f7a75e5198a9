//! Network devices as typed. Pure data, like all of `raw`.
use super::devices::RateLimiter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A network device: over a TAP interface of the host, a user-mode network, or a socket to another VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Name of the device, its own among the network devices.
    #[schemars(example = &"eth0")]
    pub iface_id: String,
    /// TAP interface on the host, 1 to 15 bytes. Either this, `passt` or `socket`.
    #[schemars(example = &"tap0")]
    pub host_dev_name: Option<String>,
    /// A user-mode network by the program passt, which needs no privileges. Either this, `host_dev_name` or `socket`.
    pub passt: Option<Passt>,
    /// A private network with one other VM. Either this, `host_dev_name` or `passt`.
    pub socket: Option<NetSocket>,
    /// MAC address that the guest sees; without it the guest chooses.
    #[schemars(example = &"06:00:ac:10:00:02")]
    pub guest_mac: Option<String>,
    /// Largest packet in bytes that the guest is told.
    #[schemars(example = 1500, range(min = 68, max = 65535))]
    pub mtu: Option<u64>,
    /// Pairs of queues, each served by a worker; more than 1 only with `host_dev_name`, whose interface then has
    /// `multi_queue`. Without it 1.
    #[schemars(range(min = 1, max = 16))]
    pub queue_pairs: Option<u64>,
    /// Whether packets may cross without checksums and larger than the MTU, which is faster; without it true.
    pub offloads: Option<bool>,
    /// Limits on what the guest receives.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits on what the guest sends.
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// A user-mode network: the guest reaches what this user reaches, and others reach it by forwarded ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Passt {
    /// TCP ports of the host that lead to the guest: "PORT", "PORT:GUESTPORT" or "ADDRESS/PORT:GUESTPORT".
    #[serde(default)]
    #[schemars(example = ["8080:80"])]
    pub tcp: Vec<String>,
    /// The same for UDP.
    #[serde(default)]
    #[schemars(example = ["127.0.0.1/5353:53"])]
    pub udp: Vec<String>,
}

/// One end of a private network with one other VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetSocket {
    /// Unix socket at which the two meet, at most 107 bytes.
    #[schemars(example = &"link.sock")]
    pub path: PathBuf,
    /// Whether this VM makes the socket and the other connects; without it false.
    #[serde(default)]
    pub listen: bool,
}
