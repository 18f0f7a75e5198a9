//! The reset line of the PC's keyboard controller, at ports 0x60..=0x64, and nothing else of it.
//!
//! Owns no state but a counter; runs on the vCPU that makes the access; never claims to be a working controller.
//!
//! A kernel told `reboot=k` waits for "input buffer empty" in the status port and writes 0xfe to it. A kernel that
//! looks for a keyboard first empties the output buffer, and gives up at once if that has no end: Linux reads 16
//! bytes and says there is no controller. So the output buffer always looks full. Looking empty would be far worse:
//! the driver would send a command and poll 10000 times for its answer. After 32 bytes the buffer looks empty once,
//! to end the loop of a guest that drains without a limit.
use crate::bus::{BusDevice, Effect};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Bytes of port space: 0x60 (data) to 0x64 (status and command).
pub const SIZE: u64 = 5;

const DATA: u64 = 0;
const STATUS: u64 = 4;
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const COMMAND_PULSE_RESET: u8 = 0xfe;
const DRAIN_LIMIT: u8 = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct I8042 {
    /// Data reads since the output buffer last looked empty.
    drained: AtomicU8,
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // The ports between belong to other hardware that is not there: port 0x61 must keep reading 0xff, because
        // kernels wait for its timer bit.
        let value = match offset {
            DATA => {
                let _ = self.drained.fetch_update(Relaxed, Relaxed, |n| n.checked_add(1));
                0
            }
            STATUS if self.drained.load(Relaxed) < DRAIN_LIMIT => STATUS_OUTPUT_FULL,
            STATUS => {
                self.drained.store(0, Relaxed);
                0
            }
            _ => return,
        };
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (STATUS, [COMMAND_PULSE_RESET, ..]) => Effect::Reset,
            _ => Effect::None,
        }
    }
}

#[cfg(test)]
mod tests;
