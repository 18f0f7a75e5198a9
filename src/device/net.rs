//! Network cards: TAP interfaces, user-mode networks, and sockets between two VMs.
use super::{Backend, DeviceError};
use crate::{
    board::Board,
    config::spec::{NetBackend, NetSpec},
};
use coracle_devices::virtio::net::{self, NetSettings, link::Link, port::Port, tap::Tap, tap::TapError};
use std::sync::Arc;

/// Why a card could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The TAP interface.
    #[error(transparent)]
    Tap(#[from] TapError),
}

/// The host's side of a card.
pub(super) struct Net {
    id: String,
    settings: NetSettings,
    ports: Vec<Port>,
    link: Link,
}

impl Net {
    pub(super) fn open(spec: &NetSpec) -> Result<Self, DeviceError> {
        let fail = |source| DeviceError::Net {
            name: spec.id.clone(),
            source,
        };
        let link = Link::default();
        let ports = match &spec.backend {
            NetBackend::Tap(name) => tap(name, spec.queue_pairs).map_err(fail)?,
            NetBackend::Passt { .. } | NetBackend::Socket { .. } => todo!(),
        };
        Ok(Self {
            id: spec.id.clone(),
            settings: NetSettings {
                mac: spec.mac,
                mtu: spec.mtu,
                offloads: spec.offloads,
            },
            ports,
            link,
        })
    }
}

fn tap(name: &str, queues: u16) -> Result<Vec<Port>, NetError> {
    let taps = Tap::open(name, queues)?;
    Ok(taps.into_iter().map(|tap| Port::Tap(Arc::new(tap))).collect())
}

impl Backend for Net {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let card = net::Net::new(self.ports.clone(), self.settings, &self.link);
        let threads = vec![board.io_thread()?];
        Ok(board.virtio(&self.id, card, threads)?)
    }
}
