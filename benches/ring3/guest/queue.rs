//! A split virtqueue (Virtio 1.2 §2.7) whose driver polls: it never asks for an interrupt.
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Entries.
pub const SIZE: usize = crate::order::MOST_DEPTH as usize;

pub const NEXT: u64 = 1;
pub const WRITE: u64 = 2;
pub const INDIRECT: u64 = 4;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// One buffer.
#[repr(C, align(16))]
pub struct Descriptor {
    at: AtomicU64,
    /// Length, flags and next, from bit 0, 32 and 48.
    rest: AtomicU64,
}

impl Descriptor {
    pub const NONE: Self = Self {
        at: AtomicU64::new(0),
        rest: AtomicU64::new(0),
    };

    pub fn set(&self, at: u64, length: u64, flags: u64, next: u64) {
        self.at.store(at, Ordering::Relaxed);
        self.rest.store(length | flags << 32 | next << 48, Ordering::Relaxed);
    }
}

#[repr(C)]
struct Available {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [AtomicU16; SIZE],
    used_event: AtomicU16,
}

#[repr(C, align(4))]
struct Used {
    flags: AtomicU16,
    index: AtomicU16,
    /// Head and written bytes of each.
    ring: [[AtomicU32; 2]; SIZE],
    available_event: AtomicU16,
}

/// What a queue shares with the device. The halves that one side writes each begin in a cache line of their own.
#[repr(C, align(4096))]
pub struct Rings {
    descriptors: [Descriptor; SIZE],
    available: Available,
    pad: [u8; 64],
    used: Used,
}

impl Rings {
    pub const fn new() -> Self {
        Self {
            descriptors: [const { Descriptor::NONE }; SIZE],
            available: Available {
                flags: AtomicU16::new(0),
                index: AtomicU16::new(0),
                ring: [const { AtomicU16::new(0) }; SIZE],
                used_event: AtomicU16::new(0),
            },
            pad: [0; 64],
            used: Used {
                flags: AtomicU16::new(0),
                index: AtomicU16::new(0),
                ring: [const { [const { AtomicU32::new(0) }; 2] }; SIZE],
                available_event: AtomicU16::new(0),
            },
        }
    }

    pub fn descriptors(&self) -> u64 {
        (&raw const self.descriptors).addr() as u64
    }

    pub fn available(&self) -> u64 {
        (&raw const self.available).addr() as u64
    }

    pub fn used(&self) -> u64 {
        (&raw const self.used).addr() as u64
    }
}

/// The driver's side.
pub struct Queue {
    index: u16,
    rings: &'static Rings,
    notify: *mut u32,
    event_idx: bool,
    next_available: u16,
    published: u16,
    next_used: u16,
    kicks: u64,
}

impl Queue {
    pub fn new(index: u16, rings: &'static Rings, notify: *mut u32, event_idx: bool) -> Self {
        rings.available.flags.store(NO_INTERRUPT, Ordering::Relaxed);
        let queue = Self {
            index,
            rings,
            notify,
            event_idx,
            next_available: 0,
            published: 0,
            next_used: 0,
            kicks: 0,
        };
        queue.want_no_interrupt();
        queue
    }

    /// Times that the device was kicked.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    pub fn descriptor(&self, index: usize) -> &Descriptor {
        &self.rings.descriptors[index % SIZE]
    }

    /// Adds the chain at `head`, of which the device learns by [`Queue::publish`].
    pub fn add(&mut self, head: usize) {
        let slot = usize::from(self.next_available) % SIZE;
        self.rings.available.ring[slot].store(head as u16, Ordering::Relaxed);
        self.next_available = self.next_available.wrapping_add(1);
    }

    /// Shows the device what was added, and kicks it if it wants that.
    pub fn publish(&mut self) {
        let (old, new) = (self.published, self.next_available);
        if old == new {
            return;
        }
        self.rings.available.index.store(new, Ordering::Release);
        self.published = new;
        // We write our index and then read what the device wants; the device the other way round (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.rings.used.available_event.load(Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.rings.used.flags.load(Ordering::Relaxed) & NO_NOTIFY == 0
        };
        if wanted {
            self.kicks += 1;
            // SAFETY: the notify register of the device that has these rings, which are atomic.
            unsafe { self.notify.write_volatile(self.index.into()) };
        }
    }

    /// The head of a chain that the device is through with, and the bytes that it wrote.
    pub fn take(&mut self) -> Option<(usize, u32)> {
        if self.rings.used.index.load(Ordering::Acquire) == self.next_used {
            return None;
        }
        let [head, written] = &self.rings.used.ring[usize::from(self.next_used) % SIZE];
        let taken = (
            head.load(Ordering::Relaxed) as usize % SIZE,
            written.load(Ordering::Relaxed),
        );
        self.next_used = self.next_used.wrapping_add(1);
        self.want_no_interrupt();
        Some(taken)
    }

    /// With EVENT_IDX the flag counts for nothing: the index that is to interrupt stays half its range ahead.
    fn want_no_interrupt(&self) {
        let far = self.next_used.wrapping_add(0x8000);
        self.rings.available.used_event.store(far, Ordering::Relaxed);
    }
}
