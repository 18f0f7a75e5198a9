//! A queue of a disk while its driver runs, on an I/O thread.
//!
//! Kicks, the rate limiter's timer and io_uring's completions are watched edge-triggered: their counters are never read,
//! which saves a system call for each.
use super::{
    request::{Request, Target},
    uring::Uring,
};
use crate::{
    rate_limiter::Throttle,
    virtio::{
        EventOps, EventSet, Events, MutEventSubscriber,
        queue::{Ring, RingError},
    },
};
use std::{io, os::fd::AsRawFd};

/// Serves one queue.
#[derive(Debug)]
pub struct BlockWorker {
    ring: Ring,
    target: Target,
    throttle: Option<Throttle>,
    uring: Option<Uring>,
}

/// Whether all that was there was taken.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// All of it: the driver kicks for more.
    All,
    /// The rate limiter or a full io_uring says stop, and will say go on.
    Blocked,
}

impl BlockWorker {
    pub(super) fn new(ring: Ring, target: Target, throttle: Option<Throttle>, uring: Option<Uring>) -> Self {
        Self {
            ring,
            target,
            throttle,
            uring,
        }
    }

    /// Ends all that is in flight and gives back what the worker was made of.
    pub(super) fn finish(mut self) -> (Ring, Option<Uring>) {
        if let Some(uring) = &mut self.uring {
            let done = uring
                .finish(&mut self.ring, &mut self.target)
                .and_then(|()| self.ring.signal());
            if let Err(error) = done {
                self.ring.fail(&error);
            }
        }
        (self.ring, self.uring)
    }

    /// Does what there is to do, unless the ring is broken.
    fn answer(&mut self) {
        if self.ring.has_failed() {
            return;
        }
        if let Err(error) = self.serve() {
            self.ring.fail(&error);
        }
    }

    fn serve(&mut self) -> Result<(), RingError> {
        if let Some(uring) = &mut self.uring {
            uring.complete(&mut self.ring, &mut self.target)?;
        }
        let mut left = 2 * u32::from(self.ring.size());
        loop {
            self.ring.disable_kicks()?;
            let taken = self.take(&mut left)?;
            if let Some(uring) = &mut self.uring {
                uring.submit();
            }
            if taken == Taken::Blocked {
                return self.ring.signal();
            }
            if left == 0 {
                // Others of this thread come first. The counter of an eventfd does not fill up from here.
                let _ = self.ring.kick().write(1);
                return self.ring.signal();
            }
            if !self.ring.enable_kicks()? {
                return self.ring.signal();
            }
        }
    }

    /// Takes up to `left` chains and serves them or sends them on their way.
    fn take(&mut self, left: &mut u32) -> Result<Taken, RingError> {
        while *left > 0 {
            if self.uring.as_ref().is_some_and(Uring::is_full) {
                return Ok(Taken::Blocked);
            }
            let Some(mut chain) = self.ring.pop()? else { break };
            let request = Request::parse(&mut chain)?;
            if let Some(throttle) = &mut self.throttle
                && !throttle.admit(1, request.bytes(&chain))
            {
                self.ring.unpop(chain);
                return Ok(Taken::Blocked);
            }
            *left -= 1;
            match &mut self.uring {
                None => {
                    let written = self.target.serve(&request, &mut chain);
                    self.ring.push(chain, written)?;
                }
                Some(uring) => {
                    if let Some((chain, written)) = uring.begin(request, chain, &mut self.target) {
                        self.ring.push(chain, written)?;
                    }
                }
            }
        }
        Ok(Taken::All)
    }

    fn watch(&self, ops: &mut EventOps) -> io::Result<()> {
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let mut sources = vec![self.ring.kick().as_raw_fd()];
        sources.extend(self.throttle.as_ref().map(AsRawFd::as_raw_fd));
        sources.extend(self.uring.as_ref().map(AsRawFd::as_raw_fd));
        sources
            .into_iter()
            .try_for_each(|fd| ops.add(Events::new_raw(fd, edge)))
            .map_err(io::Error::other)
    }
}

#[cfg(any(test, feature = "testing"))]
impl BlockWorker {
    /// What events do, for tests without an event loop: serves until nothing is in flight.
    pub fn serve_all(&mut self) {
        loop {
            self.answer();
            if self.ring.has_failed() || self.uring.as_mut().is_none_or(|uring| uring.is_idle() || !uring.wait()) {
                return;
            }
        }
    }
}

impl MutEventSubscriber for BlockWorker {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.watch(ops) {
            log::error!("drive {}: cannot watch its queue: {error}", self.target.id);
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {
        self.answer();
    }
}

#[cfg(test)]
mod tests;
