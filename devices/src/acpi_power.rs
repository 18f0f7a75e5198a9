//! Power-off and reset for hardware-reduced ACPI: the sleep registers and the reset register that the FADT names.
//!
//! Owns no state; runs on the vCPU that makes the access; never stops the VM itself, it only says what was asked.
//!
//! | offset | register | on write |
//! |---|---|---|
//! | 0 | sleep control (ACPI 6.5, 4.8.3.7) | `SLP_EN` with `SLP_TYP` = [`SLEEP_TYPE_S5`] powers off |
//! | 1 | sleep status | nothing: there is no sleep to wake from |
//! | 2 | reset register (ACPI 6.5, 4.8.3.6) | [`RESET_VALUE`] resets |
//! | 3 | unused | nothing |
use crate::bus::{BusDevice, Effect};

/// Bytes of the window.
pub const SIZE: u64 = 4;
/// Where the FADT's `SLEEP_CONTROL_REG` points to.
pub const SLEEP_CONTROL: u64 = 0;
/// Where the FADT's `SLEEP_STATUS_REG` points to.
pub const SLEEP_STATUS: u64 = 1;
/// Where the FADT's `RESET_REG` points to.
pub const RESET: u64 = 2;
/// The FADT's `RESET_VALUE`.
pub const RESET_VALUE: u8 = 1;
/// The sleep type of soft-off, which the DSDT's `\_S5` must name.
pub const SLEEP_TYPE_S5: u8 = 5;

const SLP_EN: u8 = 1 << 5;
const SLP_TYP_SHIFT: u8 = 2;
const SLP_TYP_MASK: u8 = 0b111;

/// See the module.
#[derive(Debug, Default)]
pub struct AcpiPower;

impl BusDevice for AcpiPower {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        (offset..)
            .zip(data)
            .map(|(register, &value)| match register {
                SLEEP_CONTROL if value & SLP_EN != 0 && (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK == SLEEP_TYPE_S5 => {
                    Effect::Shutdown
                }
                RESET if value == RESET_VALUE => Effect::Reset,
                _ => Effect::None,
            })
            .find(|effect| *effect != Effect::None)
            .unwrap_or(Effect::None)
    }
}

#[cfg(test)]
mod tests;
