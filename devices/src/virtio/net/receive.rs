//! The receiving half of a pair: from the port into chains that the driver has made available.
//!
//! Chains are popped ahead until they hold the largest packet, so that one system call puts any packet where it belongs.
use super::{
    super::{
        chain::Chain,
        memory::Buffers,
        queue::{Ring, RingError},
    },
    HEADER, MIN_FRAME,
    filter::Filter,
    offload::{self, Limits, Sum, Verdict},
    port::Port,
    shared::Shared,
};
use crate::rate_limiter::Throttle;
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

/// Packets that are received before the others on this thread have their turn.
const BATCH: u32 = 64;
/// Offset of `num_buffers` in the header (§5.1.6).
const NUM_BUFFERS: usize = 10;

/// What a round of receiving ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// The port has no packet now, or the batch is full: it says when there is more.
    Waiting,
    /// The driver has given no room: only its kick helps.
    Starved,
    /// A limit is reached: a timer tells when to go on.
    Limited,
    /// The port fails: it is asked again at the driver's next kick.
    Failing,
}

/// The receive queue and the chains in hand.
#[derive(Debug)]
pub(super) struct Receiver {
    ring: Ring,
    limits: Limits,
    shared: Arc<Shared>,
    /// Popped and not used yet, in order.
    chains: VecDeque<Chain>,
    /// All room of `chains`.
    room: Buffers,
    filter: Filter,
    version: u32,
    /// Packets of the last round.
    last: u32,
    rounds: u32,
    complained: bool,
    throttle: Option<Throttle>,
}

impl Receiver {
    pub(super) fn new(ring: Ring, shared: Arc<Shared>, limits: Limits) -> Self {
        Self {
            ring,
            limits,
            chains: VecDeque::new(),
            room: Buffers::default(),
            version: shared.version(),
            filter: shared.filter(),
            shared,
            last: 0,
            rounds: 0,
            complained: false,
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

    /// Gives the ring back, with the chains in hand available again.
    pub(super) fn stop(mut self, port: &Port) -> Ring {
        port.abandon();
        while let Some(chain) = self.chains.pop_back() {
            self.ring.unpop(chain);
        }
        self.ring
    }

    pub(super) fn fail(&mut self, error: &RingError) {
        self.ring.fail(error);
    }

    /// Receives until the port has nothing more, and interrupts the driver once.
    pub(super) fn run(&mut self, port: &Port) -> Result<Round, RingError> {
        if self.version != self.shared.version() {
            self.version = self.shared.version();
            self.filter = self.shared.filter();
        }
        self.ring.disable_kicks()?;
        let most = self.appetite();
        let mut count = 0;
        let round = loop {
            if !self.prepare()? {
                break Round::Starved;
            }
            // How large the packet is shows when it is here: it is paid for then, and the next one waits.
            if self.throttle.as_mut().is_some_and(|throttle| !throttle.admit(1, 1)) {
                break Round::Limited;
            }
            match port.receive(&mut self.room) {
                Ok(len) => {
                    let len = len.unwrap_or_default();
                    if let Some(throttle) = &self.throttle {
                        throttle.spend(0, len.saturating_sub(HEADER + 1) as u64);
                    }
                    self.take(len, port)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Round::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break self.complain(&error)?,
            }
            count += 1;
            if count >= most {
                break Round::Waiting;
            }
        };
        self.last = count;
        self.ring.signal()?;
        Ok(round)
    }

    /// Packets to ask for. One that comes alone, as in a conversation, is mostly followed by none: asking in vain costs a
    /// system call, while the event loop tells for nothing. Now and then it is worth a try.
    fn appetite(&mut self) -> u32 {
        self.rounds = self.rounds.wrapping_add(1);
        if self.last > 1 || self.rounds.is_multiple_of(8) {
            BATCH
        } else {
            1
        }
    }

    /// The port fails. The driver's next kick tries again, and the log hears of it once.
    fn complain(&mut self, error: &io::Error) -> Result<Round, RingError> {
        if !self.complained {
            self.complained = true;
            log::info!("network: a port gives no packets: {error}");
        }
        self.ring.enable_kicks()?;
        Ok(Round::Failing)
    }

    /// Pops chains until a packet of any size finds room. `false` if the driver has to give more first.
    fn prepare(&mut self) -> Result<bool, RingError> {
        loop {
            while self.room.len() < self.limits.receive && (self.limits.mergeable || self.chains.is_empty()) {
                let Some(chain) = self.ring.pop()? else { break };
                if chain.writable.len() < HEADER || !chain.readable.is_empty() {
                    return Err(RingError::Protocol("a buffer for packets has no room for their header"));
                }
                self.room.append(&chain.writable);
                self.chains.push_back(chain);
            }
            // A small ring may never hold the largest packet: those that fit shall pass.
            let enough = self.room.len() >= self.limits.receive
                || !self.limits.mergeable && !self.chains.is_empty()
                || self.chains.len() * 4 >= usize::from(self.ring.size());
            if enough {
                return Ok(true);
            }
            if !self.ring.enable_kicks()? {
                return Ok(false);
            }
        }
    }

    /// Gives the driver a packet of `len` bytes that has been put into the room, or drops it; 0 stands for a packet that did
    /// not fit.
    fn take(&mut self, len: usize, port: &Port) -> Result<(), RingError> {
        if len < HEADER + MIN_FRAME || !self.shared.link() || !self.is_wanted() || !self.is_sound(len, port) {
            self.rewind();
            return Ok(());
        }
        let mut held = 0;
        let mut count = 0_u16;
        for chain in &self.chains {
            held += chain.writable.len();
            count += 1;
            if held >= len {
                break;
            }
        }
        // §5.1.6.4.1: 1 without MRG_RXBUF. The port does not fill it in.
        let first = self.chains.front().map(|chain| &chain.writable);
        if !first.is_some_and(|first| first.write_at(NUM_BUFFERS, &count.to_le_bytes())) {
            return Err(RingError::Protocol("a buffer for packets has no room for their header"));
        }
        let mut left = len;
        for _ in 0..count {
            let Some(chain) = self.chains.pop_front() else { break };
            let written = left.min(chain.writable.len());
            left -= written;
            self.ring.stage(chain, written as u32)?;
        }
        // §5.1.6.4.1: the driver sees all buffers of a packet at once.
        self.ring.publish()?;
        self.room.skip(held - len);
        Ok(())
    }

    /// Whether the driver wants the packet in the first chain.
    fn is_wanted(&self) -> bool {
        let mut to = [0; 6];
        self.filter.promiscuous
            || self
                .chains
                .front()
                .is_some_and(|chain| chain.writable.read_at(HEADER, &mut to))
                && self.filter.accepts(to)
    }

    /// Whether the packet of `len` bytes can be given to this driver, now that it has been finished if need be. What a TAP
    /// gives is so: the kernel knows what the driver takes.
    fn is_sound(&self, len: usize, port: &Port) -> bool {
        if !port.is_foreign() {
            return true;
        }
        let mut packet = Buffers::default();
        for chain in &self.chains {
            packet.append(&chain.writable);
            if packet.len() >= len {
                break;
            }
        }
        let mut header = [0; HEADER];
        if !packet.read_at(0, &mut header) {
            return false;
        }
        let [fields @ .., _, _] = header;
        match offload::judge(fields, len - HEADER, self.shared.offloads()) {
            Verdict::Pass => true,
            Verdict::Complete { start, at } => complete(&packet, len, (HEADER + start, HEADER + at)),
            Verdict::Drop => false,
        }
    }

    /// Forgets what a port that is replaced has left unfinished.
    pub(super) fn forget(&mut self) {
        self.rewind();
        self.complained = false;
    }

    /// Makes all room of the chains in hand free again.
    fn rewind(&mut self) {
        self.room.clear();
        for chain in &self.chains {
            self.room.append(&chain.writable);
        }
    }
}

/// Completes the checksum of a packet of `len` bytes, which counts from `start` on and belongs at `at`.
fn complete(packet: &Buffers, len: usize, (start, at): (usize, usize)) -> bool {
    let mut sum = Sum::default();
    let mut piece = [0; 512];
    for offset in (start..len).step_by(piece.len()) {
        let n = piece.len().min(len - offset);
        let Some(bytes) = piece.get_mut(..n) else { return false };
        if !packet.read_at(offset, bytes) {
            return false;
        }
        sum.add(bytes);
    }
    // The sum is there: nothing is left to be done, and nothing to trust.
    packet.write_at(at, &sum.finish()) && packet.write_at(0, &[0; 10])
}
