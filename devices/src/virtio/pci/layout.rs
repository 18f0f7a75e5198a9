//! What is where in the BARs and in the list of capabilities (Virtio 1.2 §4.1.4). Pure.
use super::Function;
use crate::pci::{
    Space,
    config_space::{Bar, ConfigError, ConfigSpace},
    msix::{self, Msix},
};
use std::ops::Range;

/// The BAR in memory, and its size.
pub(super) const MEMORY_BAR: u8 = 0;
pub(super) const MEMORY_SIZE: u64 = 0x8000;
/// The BAR of ports, if there is one.
const PORT_BAR: u8 = 2;
/// The common configuration.
pub(super) const COMMON: Range<u64> = 0..0x38;
/// The ISR status.
pub(super) const ISR: Range<u64> = 0x40..0x44;
/// The device-specific configuration.
pub(super) const DEVICE: Range<u64> = 0x100..0x1000;
/// Doorbells in memory.
const NOTIFY: Range<u64> = 0x1000..0x2000;
/// The MSI-X table and its pending bits.
pub(super) const TABLE: Range<u64> = 0x2000..0x6000;
pub(super) const PENDING: Range<u64> = 0x6000..0x6080;
/// From a doorbell to the next, `notify_off_multiplier`.
pub(super) const NOTIFY_STEP: usize = 4;
/// Queues that have a doorbell and a vector, with one vector left for the configuration.
pub(super) const MAX_QUEUES: u16 = 1023;
/// Bytes of ports that a BAR can have.
const MAX_PORTS: u64 = 256;

/// Types of virtio's capabilities.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;
/// The identifier of a capability that its vendor defines.
const VENDOR_CAPABILITY: u8 = 9;
/// Where in the capability for access through config space its parts are.
const WINDOW_BAR: u8 = 4;
const WINDOW_OFFSET: u8 = 8;
const WINDOW_LENGTH: u8 = 12;
const WINDOW_DATA: u8 = 16;

/// Where the doorbells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notify {
    queues: u16,
    /// Bytes of ports, if the doorbells are ports too.
    ports: Option<u64>,
}

impl Notify {
    /// Doorbells for so many queues; they are in memory alone if they would be too many ports.
    pub(super) fn new(queues: u16, ports: bool) -> Self {
        let size = (u64::from(queues).max(1) * NOTIFY_STEP as u64).next_power_of_two();
        Self {
            queues,
            ports: (ports && size <= MAX_PORTS).then_some(size),
        }
    }

    /// The BAR of ports.
    pub(super) fn bar(&self) -> Option<(u8, Bar)> {
        let space = Space::Io;
        self.ports.map(|size| (PORT_BAR, Bar { space, size }))
    }

    /// The queue whose doorbell is there.
    pub(super) fn queue(bar: u8, offset: u64) -> Option<u64> {
        let offset = match bar {
            MEMORY_BAR if NOTIFY.contains(&offset) => offset - NOTIFY.start,
            PORT_BAR => offset,
            _ => return None,
        };
        Some(offset / NOTIFY_STEP as u64)
    }

    /// Where in the BAR the doorbells are that get connected: the ports, if there are any.
    pub(super) fn doorbells(&self, bar: u8) -> Option<(Space, u64)> {
        match (bar, self.ports) {
            (PORT_BAR, Some(_)) => Some((Space::Io, 0)),
            (MEMORY_BAR, None) => Some((Space::Memory, NOTIFY.start)),
            _ => None,
        }
    }
}

/// Where in config space the capabilities are that do something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capabilities {
    pub(super) msix: u8,
    window: u8,
}

impl Capabilities {
    /// Adds all of them.
    pub(super) fn add(space: &mut ConfigSpace, function: &Function, notify: &Notify) -> Result<Self, ConfigError> {
        let mut structure = |kind, bar, range: Range<u64>, more: &[u8]| {
            let body = body(kind, bar, &range, more);
            space.add_capability(VENDOR_CAPABILITY, &body, &[])
        };
        let step = (NOTIFY_STEP as u32).to_le_bytes();
        let rung = u64::from(notify.queues) * NOTIFY_STEP as u64;
        structure(COMMON_CFG, MEMORY_BAR, COMMON, &[])?;
        // Only one, for a guest's search for capabilities that are absent reads all that are present, again and again.
        match notify.ports {
            Some(_) => structure(NOTIFY_CFG, PORT_BAR, 0..rung, &step)?,
            None => structure(NOTIFY_CFG, MEMORY_BAR, NOTIFY.start..NOTIFY.start + rung, &step)?,
        };
        structure(ISR_CFG, MEMORY_BAR, ISR.start..ISR.start + 1, &[])?;
        let config = function.config().len() as u64;
        if config > 0 {
            let end = DEVICE.end.min(DEVICE.start + config);
            structure(DEVICE_CFG, MEMORY_BAR, DEVICE.start..end, &[])?;
        }
        let window = body(PCI_CFG, 0, &(0..0), &[0; 4]);
        // All but its type and its length is the driver's: bar, offset, length, data.
        let mut writable = [0xff; 18];
        if let Some((head, _)) = writable.split_first_chunk_mut::<8>() {
            *head = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff];
        }
        let window = space.add_capability(VENDOR_CAPABILITY, &window, &writable)?;
        let vectors = notify.queues + 1;
        let (body, writable) = Msix::capability(vectors, MEMORY_BAR, TABLE.start as u32, PENDING.start as u32);
        let msix = space.add_capability(msix::CAPABILITY, &body, &writable)?;
        Ok(Self { msix, window })
    }

    /// BAR, offset and length of the access through config space.
    pub(super) fn window(self, space: &ConfigSpace) -> (u8, u32, u32) {
        let [bar, ..] = space.double_word(self.window + WINDOW_BAR).to_le_bytes();
        let offset = space.double_word(self.window + WINDOW_OFFSET);
        (bar, offset, space.double_word(self.window + WINDOW_LENGTH))
    }

    /// Where its data are.
    pub(super) fn window_data(self) -> u8 {
        self.window + WINDOW_DATA
    }

    /// Whether an access to config space meets its data.
    pub(super) fn touches_window(self, offset: u8, len: usize) -> bool {
        overlap(offset, len, self.window_data(), 4)
    }
}

/// Whether `len` bytes at `offset` and `other_len` at `other` have one in common.
pub(super) fn overlap(offset: u8, len: usize, other: u8, other_len: usize) -> bool {
    let (offset, other) = (usize::from(offset), usize::from(other));
    offset < other + other_len && other < offset + len
}

/// A capability of virtio's behind its first two bytes: its length, its type, BAR, identifier, padding, offset, length.
fn body(kind: u8, bar: u8, range: &Range<u64>, more: &[u8]) -> Vec<u8> {
    let length = 16 + more.len() as u8;
    let mut body = vec![length, kind, bar, 0, 0, 0];
    body.extend_from_slice(&(range.start as u32).to_le_bytes());
    body.extend_from_slice(&((range.end - range.start) as u32).to_le_bytes());
    body.extend_from_slice(more);
    body
}
