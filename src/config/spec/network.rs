//! Network cards that can be built. Data alone, like all of a spec.
use super::devices::LimitsSpec;
use std::{net::IpAddr, path::PathBuf};

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSpec {
    /// Its name, its own among the network cards.
    pub id: String,
    /// What it is connected to.
    pub backend: NetBackend,
    /// Its address; without it the guest chooses.
    pub mac: Option<[u8; 6]>,
    /// The largest packet in bytes that the guest is told, at least 68.
    pub mtu: Option<u16>,
    /// Pairs of queues, 1 to 16; more than 1 for a TAP interface only.
    pub queue_pairs: u16,
    /// Whether packets may cross without checksums and larger than the MTU.
    pub offloads: bool,
    /// Limits on what the guest receives, over all queues; operations are packets.
    pub receive_limits: LimitsSpec,
    /// Limits on what it sends.
    pub transmit_limits: LimitsSpec,
}

/// What a card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetBackend {
    /// A TAP interface of the host.
    Tap(String),
    /// A user-mode network by the program passt, with ports that lead from the host to the guest.
    Passt {
        /// TCP ports.
        tcp: Vec<Forward>,
        /// UDP ports.
        udp: Vec<Forward>,
    },
    /// The card of one other VM.
    Socket {
        /// Where the two meet.
        path: PathBuf,
        /// Whether this side makes the socket and the other connects.
        listen: bool,
    },
}

/// A port of the host that leads to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The host's address; without it all of them.
    pub address: Option<IpAddr>,
    /// The port there.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}
