//! PCI: one bus behind a host bridge, and what functions on it are made of.
//!
//! ```text
//!            ECAM window, ports 0xcf8..          memory and I/O apertures
//!                     │                                    │
//!                     ▼                                    ▼
//!   Root ── config space of each function ──▶ what is decoded now ──▶ Function::read_bar, write_bar
//! ```
//!
//! The [`root::Root`] owns the config spaces and the map of decoded BARs; a [`Function`] owns what is behind its BARs.
//! Nothing here knows virtio. Accesses run on the vCPU that makes them. Lock order: config accesses of the root, then
//! the config space of one function, then what that function locks itself; the map of decoded BARs is locked for a
//! look-up or an exchange alone, never while a function is called.
use crate::bus::Effect;
use config_space::ConfigSpace;
use std::ops::Range;

pub mod aperture;
pub mod config_space;
pub mod doorbell;
pub mod ecam;
pub mod msix;
pub mod ports;
pub mod root;

/// An address space in which a BAR decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Memory.
    Memory,
    /// x86 ports.
    Io,
}

/// The place of a function on its bus: device number times 8 plus function number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u8);

/// Device numbers that a bus has beside the host bridge's, which is 0.
const DEVICES: u8 = 31;
/// Functions that a device can have.
const FUNCTIONS: u8 = 8;

impl Place {
    /// The host bridge's.
    pub const HOST_BRIDGE: Self = Self(0);
    /// Functions that find a place beside the host bridge.
    pub const COUNT: usize = DEVICES as usize * FUNCTIONS as usize;

    /// The place of the `index`th function, counted from 0: every device number is used once before any has a second
    /// function, so that a guest finds few functions by few reads. `None` where the bus is full.
    pub fn of(index: usize) -> Option<Self> {
        let index = u8::try_from(index).ok().filter(|_| index < Self::COUNT)?;
        Some(Self(((1 + index % DEVICES) << 3) | (index / DEVICES)))
    }

    /// As it stands in a config address.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The first function of the same device.
    fn first(self) -> Self {
        Self(self.0 & !(FUNCTIONS - 1))
    }
}

/// A function of a PCI device. Called by any vCPU at any time.
pub trait Function: Send + Sync {
    /// Serves a read of config space, at most 4 bytes within one register; the root has locked `space`.
    fn read_config(&self, space: &mut ConfigSpace, offset: u8, data: &mut [u8]) {
        space.read(offset, data);
    }
    /// Serves a write to config space, at most 4 bytes within one register; the root has locked `space`.
    fn write_config(&self, space: &mut ConfigSpace, offset: u8, data: &[u8]) -> Effect {
        space.write(offset, data);
        Effect::None
    }
    /// Fills `data`, which is set to 0xff, from what a BAR shows. `offset + data.len()` is within the BAR.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);
    /// Takes a write to what a BAR shows. `offset + data.len()` is within the BAR.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Effect;
    /// Tells where a BAR decodes from now on; `None` for nowhere. Called only when that changes.
    fn moved(&self, bar: u8, decoded: Option<Range<u64>>);
}
