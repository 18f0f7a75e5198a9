//! Random numbers: the host kernel's.
use super::{Backend, DeviceError};
use crate::{board::Board, config::spec::RngSpec};
use coracle_devices::virtio;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

pub(super) struct Rng {}

impl Rng {
    pub(super) fn open(_: &RngSpec) -> Self {
        Self {}
    }
}

impl Backend for Rng {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let thread = board.io_thread()?;
        Ok(board.virtio("entropy", virtio::rng::Rng::new(fill), vec![thread])?)
    }
}

fn fill(mut to: &mut [u8]) -> io::Result<()> {
    while !to.is_empty() {
        let n = getrandom(&mut *to, GetRandomFlags::empty())?;
        to = to.get_mut(n..).unwrap_or_default();
    }
    Ok(())
}
