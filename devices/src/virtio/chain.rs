//! One request: the buffers that a chain of descriptors names, in the order of the chain.
use super::memory::{Area, Buffers};
use vm_memory::{ByteValued, Bytes, GuestMemoryMmap};

/// How a driver broke its ring. The device is lost until it is reset.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RingError {
    /// A table of the ring lies outside memory, or not on its boundary (§2.7).
    #[error("the {0} is not in guest memory, or misaligned")]
    Table(&'static str),
    /// More entries are available than the queue has (§2.7.13.3).
    #[error("{0} buffers are available in a queue of {1}")]
    Available(u16, u16),
    /// A descriptor's number is not below the table's length.
    #[error("descriptor {0} is beyond the table")]
    Descriptor(u16),
    /// A chain that has more descriptors than its table holds: it loops.
    #[error("the chain of descriptor {0} loops")]
    Loop(u16),
    /// A buffer outside guest memory.
    #[error("a buffer of {len} bytes at {at:#x} is not in guest memory")]
    Buffer {
        /// Its guest-physical address.
        at: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A buffer for the driver's data after one for the device's (§2.7.4.2).
    #[error("a readable buffer follows a writable one")]
    Order,
    /// More than 2^32 bytes in a chain (§2.7.5).
    #[error("a chain of more than 4 GiB")]
    Length,
    /// An indirect table within an indirect table, with a successor, or of a length that is no multiple of 16 (§2.7.5.3).
    #[error("an indirect table that is nested, continued or of a wrong length")]
    Indirect,
    /// What the device needs a chain to have and it has not.
    #[error("{0}")]
    Protocol(&'static str),
}

/// A descriptor (Virtio 1.2 §2.7.5).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Descriptor {
    at: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[allow(unsafe_code, reason = "a descriptor is plain integers without padding")]
// SAFETY: four integers, 16 bytes, no padding; every bit pattern is valid.
unsafe impl ByteValued for Descriptor {}

/// Its bytes.
const DESCRIPTOR: usize = size_of::<Descriptor>();

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The buffers of a chain. Dropping one that came from a ring loses it for the driver: push it.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    /// What the driver says.
    pub readable: Buffers,
    /// Where the device answers.
    pub writable: Buffers,
}

impl Chain {
    /// The number of its first descriptor.
    pub fn head(&self) -> u16 {
        self.head
    }

    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Reads the chain that starts at `head` of `table`.
    pub(super) fn read(&mut self, head: u16, table: &Area, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        self.clear();
        self.head = head;
        let first = descriptor(table, head)?;
        if first.flags & INDIRECT == 0 {
            return self.walk(head, table, memory);
        }
        // §2.7.5.3.1: not together with NEXT, and a whole number of descriptors. The driver shall not make it longer
        // than the queue, but some do, so the bound is what an index can name.
        let len = first.len as usize;
        let entries = len / DESCRIPTOR;
        if first.flags & NEXT != 0 || entries == 0 || !len.is_multiple_of(DESCRIPTOR) || entries > MAX_INDIRECT {
            return Err(RingError::Indirect);
        }
        let table = Area::new(memory, first.at, len).ok_or(RingError::Buffer {
            at: first.at,
            len: first.len,
        })?;
        self.walk(0, &table, memory)
    }

    fn walk(&mut self, head: u16, table: &Area, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        let mut index = head;
        let mut bytes = 0_u32;
        for _ in 0..table.bytes().len() / DESCRIPTOR {
            let Descriptor { at, len, flags, next } = descriptor(table, index)?;
            if flags & INDIRECT != 0 {
                return Err(RingError::Indirect);
            }
            bytes = bytes.checked_add(len).ok_or(RingError::Length)?;
            let added = if flags & WRITE != 0 {
                self.writable.add(memory, at, len)
            } else if self.writable.is_empty() {
                self.readable.add(memory, at, len)
            } else {
                return Err(RingError::Order);
            };
            added.ok_or(RingError::Buffer { at, len })?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
        Err(RingError::Loop(self.head))
    }
}

/// More descriptors than any driver puts into one request; bounds the memory that a chain takes.
const MAX_INDIRECT: usize = 4096;

fn descriptor(table: &Area, index: u16) -> Result<Descriptor, RingError> {
    let raw: Descriptor = table
        .bytes()
        .read_obj(DESCRIPTOR * usize::from(index))
        .map_err(|_| RingError::Descriptor(index))?;
    Ok(Descriptor {
        at: u64::from_le(raw.at),
        len: u32::from_le(raw.len),
        flags: u16::from_le(raw.flags),
        next: u16::from_le(raw.next),
    })
}
