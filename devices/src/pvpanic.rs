//! A pvpanic device: one byte by which the guest's kernel tells of its panic.
//!
//! Owns no state; runs on the vCPU that makes the access; never stops the VM itself.
//!
//! Reading gives the events the device knows. Writing [`PANICKED`] says the guest is lost; writing [`CRASH_LOADED`]
//! says it panicked and a crash kernel takes over, so the VM had better go on.
use crate::bus::{BusDevice, Effect};

/// Bytes of the window; the register is the first.
pub const SIZE: u64 = 4;
/// The guest panicked and does not handle it itself.
pub const PANICKED: u8 = 1 << 0;
/// The guest panicked and is about to run its crash kernel.
pub const CRASH_LOADED: u8 = 1 << 1;

/// See the module.
#[derive(Debug, Default)]
pub struct Pvpanic;

impl BusDevice for Pvpanic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (0, Some(first)) = (offset, data.first_mut()) {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (0, [events, ..]) if events & PANICKED != 0 => Effect::Panic,
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests;
