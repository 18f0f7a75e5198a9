//! virtio-net (Virtio 1.2 §5.1): an Ethernet card.
//!
//! ```text
//! driver ── receive/transmit ring ── Pair ── Port ── TAP, another VM, or a user-mode network
//!        ── control ring ── Control ── Shared (filter, link, active pairs)
//! ```
//!
//! Each pair of a receive and a transmit queue has a worker, and so has the control queue; all run on I/O threads and
//! never block. A byte of a packet is moved once, by the system call between guest memory and the port. A port that
//! fails loses packets, as a cable does; only a broken ring stops the device.
use super::{EventOps, Events, MutEventSubscriber, Setup, VirtioDevice, config_space::ConfigSpace, queue::Ring};
use crate::rate_limiter::{RateLimiter, Throttle};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

mod control;
mod filter;
pub mod link;
mod offload;
mod pair;
pub mod port;
mod receive;
mod shared;
mod stream;
pub mod tap;
mod transmit;
pub mod wire;

use control::Control;
use link::Link;
use pair::Pair;
use port::Port;
use receive::Receiver;
use shared::Shared;
use transmit::Transmitter;

/// Bytes of `struct virtio_net_hdr_v1` before each frame (§5.1.6).
pub const HEADER: usize = 12;
/// The largest frame: 64 KiB of IP that a host leaves unsegmented, an Ethernet header and a VLAN tag.
const MAX_FRAME: usize = 65535 + 14 + 4;
/// The smallest: an Ethernet header.
const MIN_FRAME: usize = 14;
/// The largest frame without segmentation offload, if no MTU says more.
const PLAIN_MTU: u16 = 1500;
/// Entries of a receive or transmit queue.
const QUEUE: u16 = 256;
/// Entries of the control queue.
const CONTROL_QUEUE: u16 = 64;
/// The most pairs of queues; more would serve no host that such a VM runs on.
pub const MAX_PAIRS: u16 = 16;

/// Feature bit numbers (§5.1.3).
mod feature {
    pub(super) const CSUM: u32 = 0;
    pub(super) const GUEST_CSUM: u32 = 1;
    pub(super) const CTRL_GUEST_OFFLOADS: u32 = 2;
    pub(super) const MTU: u32 = 3;
    pub(super) const MAC: u32 = 5;
    pub(super) const GUEST_TSO4: u32 = 7;
    pub(super) const GUEST_TSO6: u32 = 8;
    pub(super) const GUEST_ECN: u32 = 9;
    pub(super) const GUEST_UFO: u32 = 10;
    pub(super) const HOST_TSO4: u32 = 11;
    pub(super) const HOST_TSO6: u32 = 12;
    pub(super) const HOST_ECN: u32 = 13;
    pub(super) const HOST_UFO: u32 = 14;
    pub(super) const MRG_RXBUF: u32 = 15;
    pub(super) const STATUS: u32 = 16;
    pub(super) const CTRL_VQ: u32 = 17;
    pub(super) const CTRL_RX: u32 = 18;
    pub(super) const CTRL_RX_EXTRA: u32 = 20;
    pub(super) const MQ: u32 = 22;
    pub(super) const CTRL_MAC_ADDR: u32 = 23;

    /// What every card has.
    pub(super) const ALWAYS: [u32; 6] = [MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, CTRL_RX_EXTRA, CTRL_MAC_ADDR];
    /// What cards have whose packets may be unfinished, both ways.
    pub(super) const OFFLOADS: [u32; 11] = [
        CSUM,
        HOST_TSO4,
        HOST_TSO6,
        HOST_ECN,
        HOST_UFO,
        GUEST_CSUM,
        GUEST_TSO4,
        GUEST_TSO6,
        GUEST_ECN,
        GUEST_UFO,
        CTRL_GUEST_OFFLOADS,
    ];
}

/// Offsets in the configuration (§5.1.4).
mod config {
    pub(super) const MAC: usize = 0;
    pub(super) const STATUS: usize = 6;
    pub(super) const MAX_PAIRS: usize = 8;
    pub(super) const MTU: usize = 10;
    pub(super) const SIZE: usize = 12;
}

/// What a card tells its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetSettings {
    /// Its address; without it the driver chooses.
    pub mac: Option<[u8; 6]>,
    /// The largest packet in bytes, without its Ethernet header; without it 1500.
    pub mtu: Option<u16>,
    /// Whether packets may cross the port without checksums and larger than the MTU, where the port can do that.
    pub offloads: bool,
}

impl Default for NetSettings {
    fn default() -> Self {
        Self {
            mac: None,
            mtu: None,
            offloads: true,
        }
    }
}

/// Limits on what passes, over all queues; clones are the same limits.
#[derive(Debug, Clone, Default)]
pub struct NetLimits {
    /// On what the driver receives.
    pub receive: Arc<Mutex<RateLimiter>>,
    /// On what it sends.
    pub transmit: Arc<Mutex<RateLimiter>>,
}

/// The device before, between and after drivers.
#[derive(Debug)]
pub struct Net {
    ports: Vec<Port>,
    settings: NetSettings,
    sizes: Vec<u16>,
    config: Arc<ConfigSpace>,
    shared: Arc<Shared>,
    limits: NetLimits,
    /// Whether the next start is that of a new driver.
    fresh: bool,
    /// Rings that the driver has enabled and that nobody serves.
    idle: Vec<Ring>,
}

impl Net {
    /// A card with a pair of queues for each of `ports`, of which there are 1 to [`MAX_PAIRS`], and its cable.
    pub fn new(ports: Vec<Port>, settings: NetSettings, link: &Link) -> Self {
        let pairs = ports.len().min(usize::from(MAX_PAIRS));
        let mut sizes = vec![QUEUE; 2 * pairs];
        sizes.push(CONTROL_QUEUE);
        let mut bytes = [0; config::SIZE];
        for (at, field) in [
            (config::MAC, &settings.mac.unwrap_or_default()[..]),
            (config::STATUS, &1_u16.to_le_bytes()),
            (config::MAX_PAIRS, &(pairs as u16).to_le_bytes()),
            (config::MTU, &settings.mtu.unwrap_or(PLAIN_MTU).to_le_bytes()),
        ] {
            for (to, from) in bytes.iter_mut().skip(at).zip(field) {
                *to = *from;
            }
        }
        let config = Arc::new(ConfigSpace::new(bytes, 0..0));
        link.connect(&config);
        Self {
            ports,
            sizes,
            config,
            shared: Arc::new(Shared::new(settings.mac, link.clone())),
            settings,
            limits: NetLimits::default(),
            fresh: true,
            idle: Vec::new(),
        }
    }

    /// The same card with limits.
    #[must_use]
    pub fn with_limits(self, limits: NetLimits) -> Self {
        Self { limits, ..self }
    }

    fn pairs(&self) -> u16 {
        // One queue is the control queue.
        (self.sizes.len() / 2) as u16
    }

    /// What a driver says by commands is as it was at power-on.
    fn forget(&self, setup: &Setup) {
        self.shared.reset(self.settings.mac, offload::accepted(setup.features));
        if let Some(mac) = self.settings.mac
            && self.config.get(config::MAC) != mac
        {
            self.config.set(config::MAC, &mac);
        }
    }
}

impl VirtioDevice for Net {
    type Worker = NetWorker;
    const TYPE: u16 = 1;

    fn features(&self) -> u64 {
        let mut bits = feature::ALWAYS.to_vec();
        for (offered, feature) in [
            (self.settings.mac.is_some(), feature::MAC),
            (self.settings.mtu.is_some(), feature::MTU),
            (self.pairs() > 1, feature::MQ),
        ] {
            bits.extend(offered.then_some(feature));
        }
        if self.settings.offloads && self.ports.iter().all(Port::has_offloads) {
            bits.extend(feature::OFFLOADS);
        }
        bits.into_iter().fold(0, |all, bit| all | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn start(&mut self, mut setup: Setup) -> io::Result<Vec<NetWorker>> {
        if std::mem::take(&mut self.fresh) {
            self.forget(&setup);
        }
        // §5.1.2: without MQ there is one pair, and the control queue follows it.
        let pairs = if setup.has(feature::MQ) { self.pairs() } else { 1 };
        let mut workers = Vec::new();
        let mut wakes = Vec::new();
        let control = setup.take(2 * pairs).filter(|_| setup.has(feature::CTRL_VQ));
        for (index, port) in (0..pairs).zip(&self.ports) {
            let (receive, transmit) = match (setup.take(2 * index), setup.take(2 * index + 1)) {
                (Some(receive), Some(transmit)) => (receive, transmit),
                // A driver may leave pairs out that it never activates, but not the first.
                (one, other) if index > 0 => {
                    self.idle.extend(one.into_iter().chain(other));
                    continue;
                }
                _ => return Err(io::Error::other("the driver has not enabled the first pair of queues")),
            };
            wakes.push(receive.kick().clone());
            let limits = offload::Limits::new(setup.features, self.settings.mtu);
            let receiver = Receiver::new(receive, self.shared.clone(), limits);
            let transmitter = Transmitter::new(transmit, self.shared.clone());
            let pair = Pair::new(
                index,
                receiver.throttled(Throttle::new(&self.limits.receive, Instant::now)?),
                transmitter.throttled(Throttle::new(&self.limits.transmit, Instant::now)?),
                port.clone(),
            );
            workers.push(NetWorker::Pair(Box::new(pair)));
        }
        self.idle.append(&mut setup.rings);
        self.shared.attach(wakes);
        let switch = control::Switch {
            shared: self.shared.clone(),
            config: self.config.clone(),
            ports: self.ports.clone(),
            features: setup.features,
            name: setup.signals.name().into(),
        };
        switch.set_offloads(self.shared.offloads());
        switch.set_pairs(self.shared.active());
        if let Some(ring) = control {
            workers.push(NetWorker::Control(Box::new(Control::new(ring, switch))));
        }
        Ok(workers)
    }

    fn stop(&mut self, workers: Vec<NetWorker>) -> Vec<Ring> {
        self.shared.attach(Vec::new());
        let mut rings = std::mem::take(&mut self.idle);
        for worker in workers {
            match worker {
                NetWorker::Pair(pair) => rings.extend(pair.stop()),
                NetWorker::Control(control) => rings.push(control.stop()),
            }
        }
        rings
    }

    fn reset(&mut self) {
        self.fresh = true;
    }
}

/// One of the halves that run while the driver does.
#[derive(Debug)]
pub enum NetWorker {
    /// Moves packets.
    Pair(Box<Pair>),
    /// Obeys commands.
    Control(Box<Control>),
}

impl MutEventSubscriber for NetWorker {
    fn init(&mut self, ops: &mut EventOps) {
        match self {
            Self::Pair(pair) => pair.init(ops),
            Self::Control(control) => control.init(ops),
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match self {
            Self::Pair(pair) => pair.process(events, ops),
            Self::Control(control) => control.process(events, ops),
        }
    }
}

#[cfg(test)]
mod tests;
