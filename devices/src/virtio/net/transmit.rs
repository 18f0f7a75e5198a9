//! The sending half of a pair: chains of the driver go to the port, each by one system call.
use super::{
    super::{
        chain::Chain,
        queue::{Ring, RingError},
    },
    HEADER, MAX_FRAME, MIN_FRAME,
    port::Port,
    shared::Shared,
    wire::Sent,
};
use crate::rate_limiter::Throttle;
use std::{
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    thread,
};

/// Bytes at once that make a stream rather than a conversation.
const BULK: usize = 16 << 10;

/// What a packet waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The port, which may have a part of it.
    Port,
    /// A limit.
    Limit,
}

/// The transmit queue, and the packet that waits.
#[derive(Debug)]
pub(super) struct Transmitter {
    ring: Ring,
    shared: Arc<Shared>,
    waiting: Option<(Chain, Wait)>,
    throttle: Option<Throttle>,
}

impl Transmitter {
    pub(super) fn new(ring: Ring, shared: Arc<Shared>) -> Self {
        Self {
            ring,
            shared,
            waiting: None,
            throttle: None,
        }
    }

    /// The same with a limit.
    pub(super) fn throttled(self, throttle: Option<Throttle>) -> Self {
        Self { throttle, ..self }
    }

    /// What tells that a limit allows more.
    pub(super) fn timer(&self) -> Option<RawFd> {
        self.throttle.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Gives the ring back. A packet that waits for the port is available again, unless a part of it is out.
    pub(super) fn stop(mut self, port: &Port) -> Ring {
        if let Some((mut chain, _)) = self.waiting.take() {
            if !port.finish(&mut chain.readable) {
                self.ring.unpop(chain);
            } else if let Err(error) = self.ring.push(chain, 0).and_then(|()| self.ring.signal()) {
                self.ring.fail(&error);
            }
        }
        self.ring
    }

    /// Gives up the packet that waits for a port which is replaced.
    pub(super) fn forget(&mut self) -> Result<(), RingError> {
        self.waiting
            .take()
            .map_or(Ok(()), |(chain, _)| self.ring.push(chain, 0))
    }

    pub(super) fn fail(&mut self, error: &RingError) {
        self.ring.fail(error);
    }

    /// Whether a packet waits until the port is writable.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.waiting, Some((_, Wait::Port)))
    }

    /// Sends all that the driver has made available, and interrupts it once if it wants to know. Returns after twice the
    /// queue's size at the latest, having kicked itself.
    pub(super) fn run(&mut self, port: &Port) -> Result<(), RingError> {
        let mut left = 2 * u32::from(self.ring.size());
        let mut bulk = 0;
        self.ring.disable_kicks()?;
        loop {
            let next = match self.waiting.take() {
                None => self.ring.pop()?.map(|chain| (chain, Wait::Limit)),
                waiting => waiting,
            };
            if let Some((mut chain, wait)) = next {
                if wait == Wait::Limit && !self.admit(&chain) {
                    self.waiting = Some((chain, Wait::Limit));
                    break;
                }
                bulk += chain.readable.len();
                if self.send(&mut chain, port)? == Sent::Later {
                    self.waiting = Some((chain, Wait::Port));
                    break;
                }
                self.ring.push(chain, 0)?;
                left -= 1;
                if left == 0 {
                    // The counter of an eventfd does not fill up from here.
                    let _ = self.ring.kick().write(1);
                    break;
                }
            } else if bulk >= BULK {
                // Who sends that much sends more: where driver and worker share a CPU, the driver then adds several packets
                // before the next look, without a kick for each. Elsewhere this returns at once.
                bulk = 0;
                self.ring.signal()?;
                thread::yield_now();
            } else if !self.ring.enable_kicks()? {
                break;
            }
        }
        self.ring.signal()
    }

    /// Whether the limit lets the packet go, which then has paid.
    fn admit(&mut self, chain: &Chain) -> bool {
        let bytes = chain.readable.len().saturating_sub(HEADER) as u64;
        self.throttle.as_mut().is_none_or(|throttle| throttle.admit(1, bytes))
    }

    fn send(&self, chain: &mut Chain, port: &Port) -> Result<Sent, RingError> {
        if !chain.writable.is_empty() {
            return Err(RingError::Protocol("a packet to send has a buffer for the device"));
        }
        let fits = (HEADER + MIN_FRAME..=HEADER + MAX_FRAME).contains(&chain.readable.len());
        Ok(if fits && self.shared.link() {
            port.send(&mut chain.readable)
        } else {
            Sent::Over
        })
    }
}
