//! The config space of a function: a type-0 header, BARs and a list of capabilities (PCI Local Bus 3.0, section 6).
//!
//! Owns the 256 bytes and, for each bit, whether the guest may write it. A BAR is nothing but bytes with a mask, so its
//! sizing needs no code. Pure; never calls a device.
use super::Space;
use std::ops::Range;

/// Bytes of a config space without extended capabilities.
pub const SIZE: usize = 256;
/// BARs of a type-0 header.
pub const BARS: u8 = 6;

const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const REVISION: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0e;
const BAR_0: u8 = 0x10;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3c;
/// Where capabilities begin.
const HEADER_END: usize = 0x40;

const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const MULTIFUNCTION: u8 = 1 << 7;
const BAR_IO: u32 = 1;
const BAR_MEMORY_64: u32 = 0b100;
/// Smallest BARs that the low bits of their registers can tell.
const MIN_MEMORY: u64 = 16;
const MIN_IO: u64 = 4;
/// Most ports that one BAR may claim (section 6.2.5.1).
const MAX_IO: u64 = 256;

/// The numbers by which a driver knows a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// What it is, by its maker.
    pub device: u16,
    /// Version of it.
    pub revision: u8,
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Who made what it is on.
    pub subsystem_vendor: u16,
    /// What it is on, by that maker.
    pub subsystem: u16,
}

/// A base address register, 64 bits wide in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Where it decodes.
    pub space: Space,
    /// Bytes that it shows, a power of two.
    pub size: u64,
}

/// A config space that cannot be; always a mistake of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The BAR's size or number is impossible.
    #[error("BAR {index} cannot show {size:#x} bytes of {space:?}; choose a power of two and a free register")]
    Bar {
        /// Its number.
        index: u8,
        /// Where it should decode.
        space: Space,
        /// Its size.
        size: u64,
    },
    /// The capabilities do not fit.
    #[error("capability {id:#x} of {size} bytes does not fit into config space; leave one out")]
    Capability {
        /// Its identifier.
        id: u8,
        /// Its bytes, with the two that every capability has.
        size: usize,
    },
}

/// See the module.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// Bits that the guest may write.
    writable: [u8; SIZE],
    bars: [Option<Bar>; BARS as usize],
    /// Where the pointer to the next capability goes, and where that will be.
    link: u8,
    free: usize,
}

impl ConfigSpace {
    /// A function with neither BARs nor capabilities, that decodes nothing.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bars: [None; BARS as usize],
            link: CAPABILITIES,
            free: HEADER_END,
        };
        let [class, subclass, interface] = identity.class;
        space.set(0, &identity.vendor.to_le_bytes());
        space.set(2, &identity.device.to_le_bytes());
        space.set(REVISION, &[identity.revision, interface, subclass, class]);
        space.set(SUBSYSTEM, &identity.subsystem_vendor.to_le_bytes());
        space.set(SUBSYSTEM + 2, &identity.subsystem.to_le_bytes());
        let command = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a BAR that has no address yet. One in memory takes the next number too.
    pub fn add_bar(&mut self, index: u8, bar: Bar) -> Result<(), ConfigError> {
        let Bar { space, size } = bar;
        let (registers, sizes, flags) = match space {
            Space::Memory => (2, MIN_MEMORY..=1 << 62, BAR_MEMORY_64),
            Space::Io => (1, MIN_IO..=MAX_IO, BAR_IO),
        };
        let wanted = index..index.saturating_add(registers);
        let free = wanted.end <= BARS
            && self
                .bars()
                .all(|(other, bar)| !overlap(&wanted, &registers_of(other, bar)));
        let slot = self.bars.get_mut(usize::from(index)).filter(|_| free);
        let (Some(slot), true) = (slot, size.is_power_of_two() && sizes.contains(&size)) else {
            return Err(ConfigError::Bar { index, space, size });
        };
        *slot = Some(bar);
        let register = BAR_0 + 4 * index;
        let mask = !(size - 1);
        self.set(register, &flags.to_le_bytes());
        match space {
            Space::Memory => self.allow(register, &mask.to_le_bytes()),
            Space::Io => self.allow(register, &(mask as u32).to_le_bytes()),
        }
        Ok(())
    }

    /// Adds a capability behind the two bytes that all have; says where it begins. `writable` has the bits of `body` that
    /// the guest may write; bytes that it lacks are read-only.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, ConfigError> {
        let size = 2 + body.len();
        let (start, end) = (self.free, (self.free + size).next_multiple_of(4));
        let at = u8::try_from(start).ok().filter(|_| end <= SIZE);
        let at = at.ok_or(ConfigError::Capability { id, size })?;
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        self.set(self.link, &[at]);
        let [status, _] = STATUS_CAPABILITIES.to_le_bytes();
        self.set(STATUS, &[status]);
        (self.link, self.free) = (at + 1, end);
        Ok(at)
    }

    /// Says that the device has more functions than this one, its first.
    pub fn set_multifunction(&mut self) {
        self.set(HEADER_TYPE, &[MULTIFUNCTION]);
    }

    /// Reads as the guest does; bytes behind the end read as ones.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        data.fill(0xff);
        for (to, from) in data.iter_mut().zip(self.bytes.iter().skip(offset.into())) {
            *to = *from;
        }
    }

    /// Writes as the guest does: what is read-only stays.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        let registers = self.bytes.iter_mut().zip(&self.writable).skip(offset.into());
        for ((register, mask), value) in registers.zip(data) {
            *register = *register & !mask | value & mask;
        }
    }

    /// Two bytes, as a number.
    pub fn word(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Four bytes, as a number.
    pub fn double_word(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The BARs, by number.
    pub fn bars(&self) -> impl Iterator<Item = (u8, Bar)> + '_ {
        (0..).zip(&self.bars).filter_map(|(index, bar)| Some((index, (*bar)?)))
    }

    /// Where a BAR's register says that it is; `None` if there is no such BAR or it would leave its space.
    pub fn range(&self, index: u8) -> Option<Range<u64>> {
        let bar = (*self.bars.get(usize::from(index))?)?;
        let register = BAR_0 + 4 * index;
        let low = u64::from(self.double_word(register));
        let start = match bar.space {
            Space::Memory => low | u64::from(self.double_word(register + 4)) << 32,
            Space::Io => low,
        } & !(bar.size - 1);
        Some(start..start.checked_add(bar.size)?)
    }

    /// Puts an address into a BAR's register, as firmware does.
    pub fn place(&mut self, index: u8, start: u64) {
        let register = BAR_0 + 4 * index;
        let [a, b, c, d, high @ ..] = start.to_le_bytes();
        match self.bars.get(usize::from(index)) {
            Some(Some(Bar { space: Space::Io, .. })) => self.write(register, &[a, b, c, d]),
            Some(Some(_)) => {
                self.write(register, &[a, b, c, d]);
                self.write(register + 4, &high);
            }
            _ => {}
        }
    }

    /// Whether the command register lets BARs of `space` decode.
    pub fn decodes(&self, space: Space) -> bool {
        let bit = match space {
            Space::Memory => COMMAND_MEMORY,
            Space::Io => COMMAND_IO,
        };
        self.word(COMMAND) & bit != 0
    }

    /// Whether a write of `data` at `offset` is the one by which a guest asks for the size of the BAR `index`.
    pub fn sizes(index: u8, offset: u8, data: &[u8]) -> bool {
        let register = BAR_0 + 4 * index;
        data == [0xff; 4] && [register, register + 4].contains(&offset)
    }

    fn set(&mut self, offset: u8, data: &[u8]) {
        for (register, value) in self.bytes.iter_mut().skip(offset.into()).zip(data) {
            *register = *value;
        }
    }

    fn allow(&mut self, offset: u8, mask: &[u8]) {
        for (writable, mask) in self.writable.iter_mut().skip(offset.into()).zip(mask) {
            *writable = *mask;
        }
    }
}

/// Numbers of the registers that a BAR takes.
fn registers_of(index: u8, bar: Bar) -> Range<u8> {
    index..index + if bar.space == Space::Memory { 2 } else { 1 }
}

fn overlap(a: &Range<u8>, b: &Range<u8>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests;
