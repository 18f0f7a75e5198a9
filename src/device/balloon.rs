//! The balloon: gives guest memory back to the host.
use super::{Backend, DeviceError};
use crate::{board::Board, config::spec::BalloonSpec, memory};
use coracle_devices::virtio::balloon::{Balloon as Device, Handle, Options};
use std::sync::Arc;

/// The balloon's host side, which outlives machines: its target stays over a reboot of the guest.
pub(super) struct Balloon {
    options: Options,
    pool_pages: bool,
    handle: Arc<Handle>,
}

impl Balloon {
    pub(super) fn open(spec: &BalloonSpec) -> Self {
        Self {
            options: Options {
                deflate_on_oom: spec.deflate_on_oom,
                statistics: spec.statistics,
                hinting: spec.hinting,
                reporting: spec.reporting,
            },
            pool_pages: spec.pool_pages,
            handle: Arc::new(Handle::new(spec.bytes)),
        }
    }
}

impl Backend for Balloon {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let pool_pages = self.pool_pages;
        let release = Arc::new(move |piece: vm_memory::VolatileSlice<'_>| memory::give_back(piece, pool_pages));
        let device = Device::new(self.options, self.handle.clone(), release);
        let thread = board.io_thread()?;
        Ok(board.virtio("balloon", device, vec![thread])?)
    }

    fn handle(&self) -> Option<super::Handle> {
        Some(super::Handle::Balloon(self.handle.clone()))
    }
}
