//! Random numbers: the host kernel's.
use super::{Backend, DeviceError, limiter};
use crate::{board::Board, config::spec::RngSpec};
use coracle_devices::{rate_limiter::RateLimiter, virtio};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{
    io,
    sync::{Arc, Mutex},
};

pub(super) struct Rng {
    limiter: Arc<Mutex<RateLimiter>>,
}

impl Rng {
    pub(super) fn open(spec: &RngSpec) -> Self {
        Self {
            limiter: limiter(&spec.limits),
        }
    }
}

impl Backend for Rng {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let thread = board.io_thread()?;
        let device = virtio::rng::Rng::limited(fill, self.limiter.clone());
        Ok(board.virtio("entropy", device, vec![thread])?)
    }
}

fn fill(mut to: &mut [u8]) -> io::Result<()> {
    while !to.is_empty() {
        let n = getrandom(&mut *to, GetRandomFlags::empty())?;
        to = to.get_mut(n..).unwrap_or_default();
    }
    Ok(())
}
