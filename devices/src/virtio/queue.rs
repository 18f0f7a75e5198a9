//! A split virtqueue (Virtio 1.2 §2.7): what the driver sets up, and the ring while it runs.
//!
//! [`Queue`] is plain data; it moves into a [`Ring`] when the driver is ready and home again at a reset or a pause. A ring
//! belongs to one worker and is used on that worker's thread. It checks all that a driver can get wrong, and never
//! panics, loops or allocates by what a driver says.
use super::{EventOps, EventSet, Events, Signals, chain::Chain, memory::Area};
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering, fence},
};
use vm_memory::{Bytes, GuestMemoryMmap, VolatileMemory};
use vmm_sys_util::eventfd::EventFd;

pub use super::chain::RingError;

/// What a driver sets up of one queue, and how far both sides have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The most entries that the device allows.
    pub max_size: u16,
    /// Entries, a power of two.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The next available entry that the device looks at.
    pub next_available: u16,
    /// The next used entry that the device writes.
    pub next_used: u16,
}

impl Queue {
    /// A queue as it is after a reset.
    pub fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
        }
    }
}

/// A running queue with the driver's kicks and the device's signals.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    index: u16,
    memory: GuestMemoryMmap,
    descriptors: Area,
    available: Area,
    used: Area,
    kick: Arc<EventFd>,
    signals: Signals,
    event_idx: bool,
    /// The used index at the last decision about an interrupt.
    signalled: u16,
    failed: bool,
    spare: Vec<Chain>,
}

/// In the flags of the available ring: the driver wants no interrupts (§2.7.6).
const NO_INTERRUPT: u16 = 1;
/// In the flags of the used ring: the device wants no kicks (§2.7.8).
const NO_NOTIFY: u16 = 1;

impl Ring {
    /// Starts a queue that the driver has set up.
    pub fn start(
        queue: Queue,
        index: u16,
        memory: &GuestMemoryMmap,
        event_idx: bool,
        (kick, signals): (Arc<EventFd>, Signals),
    ) -> Result<Self, (Queue, RingError)> {
        let size = usize::from(queue.size);
        let area = |name, at: u64, len, align| {
            at.is_multiple_of(align)
                .then(|| Area::new(memory, at, len))
                .flatten()
                .ok_or(RingError::Table(name))
        };
        // §2.7: sizes and alignments; two bytes more for the event that EVENT_IDX adds.
        let areas = area("descriptor table", queue.descriptors, 16 * size, 16).and_then(|descriptors| {
            let available = area("available ring", queue.available, 6 + 2 * size, 2)?;
            let used = area("used ring", queue.used, 6 + 8 * size, 4)?;
            Ok((descriptors, available, used))
        });
        match areas {
            Ok((descriptors, available, used)) => Ok(Self {
                signalled: queue.next_used,
                queue,
                index,
                memory: memory.clone(),
                descriptors,
                available,
                used,
                kick,
                signals,
                event_idx,
                failed: false,
                spare: Vec::new(),
            }),
            Err(error) => Err((queue, error)),
        }
    }

    /// Takes the queue home.
    pub fn stop(self) -> (u16, Queue) {
        (self.index, self.queue)
    }

    /// Which queue of the device it is.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Entries of the queue.
    pub fn size(&self) -> u16 {
        self.queue.size
    }

    /// Has `ops` call the worker at each kick, with `data`. The event is watched for edges: every kick is one, so the worker
    /// need not read it.
    pub fn watch(&self, ops: &mut EventOps, data: u32) {
        let events = Events::with_data(&*self.kick, data, EventSet::IN | EventSet::EDGE_TRIGGERED);
        if let Err(error) = ops.add(events) {
            self.signals
                .fail(format_args!("cannot watch queue {}: {error}", self.index));
        }
    }

    /// How many chains were pushed so far, modulo 2^16.
    pub fn next_used(&self) -> u16 {
        self.queue.next_used
    }

    /// The event that the driver's kick signals.
    pub fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// The next chain that the driver has made available. Its descriptors are read once and checked here.
    pub fn pop(&mut self) -> Result<Option<Chain>, RingError> {
        let waiting = self
            .available_index(Ordering::Acquire)?
            .wrapping_sub(self.queue.next_available);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.queue.size {
            return Err(RingError::Available(waiting, self.queue.size));
        }
        let slot = usize::from(self.queue.next_available % self.queue.size);
        let head = self
            .available
            .bytes()
            .read_obj::<u16>(4 + 2 * slot)
            .map(u16::from_le)
            .map_err(|_| RingError::Table("available ring"))?;
        let mut chain = self.spare.pop().unwrap_or_default();
        chain.read(head, &self.descriptors, &self.memory)?;
        self.queue.next_available = self.queue.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the chain that was popped last back, to be popped again.
    pub fn unpop(&mut self, chain: Chain) {
        self.queue.next_available = self.queue.next_available.wrapping_sub(1);
        self.recycle(chain);
    }

    /// Returns a chain to the driver, with `written` bytes of the device in it. The driver is told by [`Ring::signal`].
    pub fn push(&mut self, chain: Chain, written: u32) -> Result<(), RingError> {
        self.stage(chain, written)?;
        self.publish()
    }

    /// As [`Ring::push`], but the driver does not see the chain before [`Ring::publish`]: for answers of several chains.
    pub fn stage(&mut self, chain: Chain, written: u32) -> Result<(), RingError> {
        let slot = usize::from(self.queue.next_used % self.queue.size);
        let head = u32::from(chain.head());
        self.recycle(chain);
        let entry = u64::from(head) | u64::from(written) << 32;
        self.used
            .bytes()
            .write_obj(entry.to_le(), 4 + 8 * slot)
            .map_err(|_| RingError::Table("used ring"))?;
        self.queue.next_used = self.queue.next_used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver all chains that were staged.
    pub fn publish(&mut self) -> Result<(), RingError> {
        self.used
            .bytes()
            .store(self.queue.next_used.to_le(), 2, Ordering::Release)
            .map_err(|_| RingError::Table("used ring"))
    }

    /// Whether the driver has made a chain available that was not popped yet.
    pub fn has_available(&self) -> Result<bool, RingError> {
        Ok(self.available_index(Ordering::Acquire)? != self.queue.next_available)
    }

    /// Asks the driver for no kicks: whatever it adds, the device looks by itself.
    pub fn disable_kicks(&mut self) -> Result<(), RingError> {
        if self.event_idx {
            return Ok(()); // the event stays where it was, behind the driver
        }
        self.set_used_flags(NO_NOTIFY)
    }

    /// Asks the driver for kicks again. `true` if it has added chains meanwhile, for which it may not kick.
    pub fn enable_kicks(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            let at = 4 + 8 * usize::from(self.queue.size);
            self.used
                .bytes()
                .store(self.queue.next_available.to_le(), at, Ordering::Relaxed)
                .map_err(|_| RingError::Table("used ring"))?;
        } else {
            self.set_used_flags(0)?;
        }
        // The driver writes its index and then reads ours; we the other way round.
        fence(Ordering::SeqCst);
        self.has_available()
    }

    /// Interrupts the driver if it wants to hear of what was pushed since the last call (§2.7.7.2).
    pub fn signal(&mut self) -> Result<(), RingError> {
        let (old, new) = (self.signalled, self.queue.next_used);
        if old == new {
            return Ok(());
        }
        // What was pushed comes before the look at what the driver wants.
        fence(Ordering::SeqCst);
        self.signalled = new;
        let wanted = if self.event_idx {
            let event = self.load_available(4 + 2 * usize::from(self.queue.size), Ordering::Relaxed)?;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load_available(0, Ordering::Relaxed)? & NO_INTERRUPT == 0
        };
        if wanted {
            self.signals.used(self.index);
        }
        Ok(())
    }

    /// Serves all that is available: `serve` gets each chain and answers the bytes that it wrote. Returns after twice the
    /// queue's size at the latest, having kicked itself, so that a busy driver does not starve the thread's others.
    pub fn drain(&mut self, mut serve: impl FnMut(&mut Chain) -> Result<u32, RingError>) -> Result<(), RingError> {
        let mut left = 2 * u32::from(self.queue.size);
        loop {
            self.disable_kicks()?;
            while let Some(mut chain) = self.pop()? {
                let written = serve(&mut chain)?;
                self.push(chain, written)?;
                left -= 1;
                if left == 0 {
                    // The counter of an eventfd does not fill up from here.
                    let _ = self.kick.write(1);
                    return self.signal();
                }
            }
            if !self.enable_kicks()? {
                return self.signal();
            }
        }
    }

    /// Gives the device up until it is reset (§2.1.2). Logged once for each start of the driver.
    pub fn fail(&mut self, error: &RingError) {
        if !self.failed {
            self.failed = true;
            self.signals
                .fail(format_args!("queue {} is broken: {error}", self.index));
        }
    }

    /// Whether it was given up; a worker leaves such a ring alone.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    fn recycle(&mut self, mut chain: Chain) {
        chain.clear();
        self.spare.push(chain);
    }

    fn available_index(&self, order: Ordering) -> Result<u16, RingError> {
        self.load_available(2, order)
    }

    fn load_available(&self, offset: usize, order: Ordering) -> Result<u16, RingError> {
        self.available
            .bytes()
            .get_atomic_ref::<AtomicU16>(offset)
            .map(|value| u16::from_le(value.load(order)))
            .map_err(|_| RingError::Table("available ring"))
    }

    fn set_used_flags(&self, flags: u16) -> Result<(), RingError> {
        self.used
            .bytes()
            .store(flags.to_le(), 0, Ordering::Relaxed)
            .map_err(|_| RingError::Table("used ring"))
    }
}

#[cfg(test)]
mod tests;
