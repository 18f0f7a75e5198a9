//! virtio-rng (Virtio 1.2 §5.4): random bytes of the host.
//!
//! The worker runs on an I/O thread. A request is filled up to [`MAX_REQUEST`] bytes, whatever the driver asks for.
use super::{
    EventOps, Events, MutEventSubscriber, Setup, VirtioDevice,
    chain::Chain,
    config_space::ConfigSpace,
    queue::{Ring, RingError},
};
use std::{io, sync::Arc};

/// Bytes that one request gets at most; Linux asks for 64.
const MAX_REQUEST: usize = 64 << 10;

/// Where random bytes come from; fails only if the host's source does.
pub type Source = fn(&mut [u8]) -> io::Result<()>;

/// The device before, between and after drivers.
#[derive(Debug)]
pub struct Rng {
    source: Source,
    config: Arc<ConfigSpace>,
}

impl Rng {
    /// A device that takes its bytes from `source`.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            config: Arc::new(ConfigSpace::new([], 0..0)),
        }
    }
}

impl VirtioDevice for Rng {
    type Worker = RngWorker;
    const TYPE: u16 = 4;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn start(&mut self, mut setup: Setup) -> io::Result<Vec<RngWorker>> {
        Ok(vec![RngWorker {
            ring: setup.require(0)?,
            source: self.source,
        }])
    }

    fn stop(&mut self, workers: Vec<RngWorker>) -> Vec<Ring> {
        workers.into_iter().map(|worker| worker.ring).collect()
    }
}

/// The half that runs while the driver does.
#[derive(Debug)]
pub struct RngWorker {
    ring: Ring,
    source: Source,
}

impl MutEventSubscriber for RngWorker {
    fn init(&mut self, ops: &mut EventOps) {
        self.ring.watch(ops, 0);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let source = self.source;
        if let Err(error) = self.ring.drain(|chain| serve(chain, source)) {
            self.ring.fail(&error);
            // An event that cannot be removed comes again, and is answered in the same way.
            let _ = ops.remove(events);
        }
    }
}

fn serve(chain: &mut Chain, source: Source) -> Result<u32, RingError> {
    let wanted = chain.writable.len().min(MAX_REQUEST);
    if wanted == 0 {
        return Err(RingError::Protocol("a request for random bytes has no room for any"));
    }
    let mut bytes = vec![0; wanted];
    if let Err(error) = source(&mut bytes) {
        log::error!("rng: no random bytes: {error}");
        return Ok(0);
    }
    Ok(if chain.writable.write(&bytes) { wanted as u32 } else { 0 })
}

#[cfg(test)]
mod tests;
