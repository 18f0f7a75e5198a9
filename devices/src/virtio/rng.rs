//! virtio-rng (Virtio 1.2 §5.4): random bytes of the host.
//!
//! The worker runs on an I/O thread. A request is filled up to 64 KiB, whatever the driver asks for. One that
//! a limit holds back stays in the ring.
use super::{
    EventOps, EventSet, Events, MutEventSubscriber, Setup, VirtioDevice,
    chain::Chain,
    config_space::ConfigSpace,
    queue::{Ring, RingError},
};
use crate::rate_limiter::{Clock, RateLimiter, Throttle};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

/// Bytes that one request gets at most; Linux asks for 64.
const MAX_REQUEST: usize = 64 << 10;

/// Where random bytes come from; fails only if the host's source does.
pub type Source = fn(&mut [u8]) -> io::Result<()>;

/// The device before, between and after drivers.
#[derive(Debug)]
pub struct Rng {
    source: Source,
    limiter: Arc<Mutex<RateLimiter>>,
    clock: Clock,
    config: Arc<ConfigSpace>,
}

impl Rng {
    /// A device that takes its bytes from `source`.
    pub fn new(source: Source) -> Self {
        Self::limited(source, Arc::default())
    }

    /// As above, and the guest gets no more than `limiter` lets pass.
    pub fn limited(source: Source, limiter: Arc<Mutex<RateLimiter>>) -> Self {
        Self {
            source,
            limiter,
            clock: Instant::now,
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
            throttle: Throttle::new(&self.limiter, self.clock)?,
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
    throttle: Option<Throttle>,
    source: Source,
}

/// The event of the limit's timer; that of the queue is 0.
const ADMITTED: u32 = 1;

impl MutEventSubscriber for RngWorker {
    fn init(&mut self, ops: &mut EventOps) {
        self.ring.watch(ops, 0);
        let timer = self.throttle.as_ref();
        let timer = timer.map(|timer| Events::with_data(timer, ADMITTED, EventSet::IN | EventSet::EDGE_TRIGGERED));
        if let Some(Err(error)) = timer.map(|timer| ops.add(timer)) {
            log::error!("rng: cannot watch the timer of its limit, and keeps none: {error}");
            self.throttle = None;
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.ring.has_failed() {
            return;
        }
        if let Err(error) = self.serve() {
            self.ring.fail(&error);
            // An event that cannot be removed comes again, and is answered in the same way.
            let _ = ops.remove(events);
        }
    }
}

impl RngWorker {
    /// Serves what is available and allowed.
    fn serve(&mut self) -> Result<(), RingError> {
        for _ in 0..2 * u32::from(self.ring.size()) {
            self.ring.disable_kicks()?;
            let Some(mut chain) = self.ring.pop()? else {
                if self.ring.enable_kicks()? {
                    continue;
                }
                return self.ring.signal();
            };
            let bytes = chain.writable.len().min(MAX_REQUEST) as u64;
            if let Some(throttle) = &mut self.throttle
                && !throttle.admit(1, bytes)
            {
                // Its timer says when to go on; a kick would say nothing new.
                self.ring.unpop(chain);
                return self.ring.signal();
            }
            let written = serve(&mut chain, self.source)?;
            self.ring.push(chain, written)?;
        }
        // The thread's other workers have their turn; the counter of an eventfd does not fill up from here.
        let _ = self.ring.kick().write(1);
        self.ring.signal()
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
