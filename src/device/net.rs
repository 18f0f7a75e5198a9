//! Network cards: TAP interfaces, user-mode networks, and sockets between two VMs.
use super::{Backend, DeviceError, Handle, limiter};
use crate::{
    board::Board,
    config::spec::{NetBackend, NetSpec},
};
use coracle_devices::virtio::net::{self, NetLimits, NetSettings, link::Link, port::Port, tap::Tap, tap::TapError};
use std::{io, path::PathBuf, sync::Arc};

mod passt;
mod peer;

/// Why a card could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The TAP interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The user-mode network cannot be started.
    #[error(
        "cannot start passt, which makes the user-mode network; install it (Debian's package passt), or use a TAP interface"
    )]
    Passt(#[source] io::Error),
    /// Somebody listens at the socket already.
    #[error("another VM listens at {} already; connect to it, or give this one another path", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at {}; check that the folder is there and can be written", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A thread or a descriptor.
    #[error("cannot make what connects the card; raise the limits on threads and open files")]
    Resource(#[from] io::Error),
}

/// The host's side of a card.
pub(super) struct Net {
    id: String,
    settings: NetSettings,
    ports: Vec<Port>,
    limits: NetLimits,
    link: Link,
    /// What keeps the other end there.
    _keeper: Option<Keeper>,
}

/// Keeps a socket connected until it is dropped.
enum Keeper {
    Passt { _running: passt::Passt },
    Peer { _meeting: peer::Peer },
}

impl Net {
    pub(super) fn open(spec: &NetSpec) -> Result<Self, DeviceError> {
        let link = Link::default();
        let (ports, keeper) = connect(spec, &link).map_err(|source| DeviceError::Net {
            name: spec.id.clone(),
            source,
        })?;
        Ok(Self {
            id: spec.id.clone(),
            settings: NetSettings {
                mac: spec.mac,
                mtu: spec.mtu,
                offloads: spec.offloads,
            },
            ports,
            limits: NetLimits {
                receive: limiter(&spec.receive_limits),
                transmit: limiter(&spec.transmit_limits),
            },
            link,
            _keeper: keeper,
        })
    }
}

fn connect(spec: &NetSpec, link: &Link) -> Result<(Vec<Port>, Option<Keeper>), NetError> {
    Ok(match &spec.backend {
        NetBackend::Tap(name) => {
            let taps = Tap::open(name, spec.queue_pairs)?;
            (taps.into_iter().map(|tap| Port::Tap(Arc::new(tap))).collect(), None)
        }
        NetBackend::Passt { tcp, udp } => {
            let (wire, running) = passt::Passt::start(&spec.id, (tcp, udp), spec.mtu, link)?;
            (vec![Port::Wire(wire)], Some(Keeper::Passt { _running: running }))
        }
        NetBackend::Socket { path, listen } => {
            let (wire, meeting) = peer::Peer::open(&spec.id, path, *listen, link)?;
            (vec![Port::Wire(wire)], Some(Keeper::Peer { _meeting: meeting }))
        }
    })
}

impl Backend for Net {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let card = net::Net::new(self.ports.clone(), self.settings, &self.link).with_limits(self.limits.clone());
        let threads = vec![board.io_thread()?];
        Ok(board.virtio(&self.id, card, threads)?)
    }

    fn handle(&self) -> Option<Handle> {
        Some(Handle::Cable(self.id.clone(), self.link.clone()))
    }
}
