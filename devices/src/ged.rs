//! The register behind ACPI's generic event device (ACPI 6.5, 5.6.9): what happened since the guest last asked.
//!
//! Owns the pending events. [`Ged::press_power_button`] may be called from any thread, accesses run on the vCPU that
//! makes them; never waits for the guest to react.
//!
//! Byte 0 reads as the pending events and forgets them; the DSDT's `_EVT` reads it once for each interrupt. The other
//! bytes read 0, and writes do nothing.
use crate::{
    bus::{BusDevice, Effect},
    irq::IrqLine,
};
use std::sync::atomic::{AtomicU8, Ordering::AcqRel};

/// Bytes of the window.
pub const SIZE: u64 = 4;
/// The event bit of the power button.
pub const POWER_BUTTON: u8 = 1 << 0;

/// See the module.
#[derive(Debug)]
pub struct Ged {
    irq: IrqLine,
    pending: AtomicU8,
}

impl Ged {
    /// A device with no event pending.
    pub fn new(irq: IrqLine) -> Self {
        Self {
            irq,
            pending: AtomicU8::new(0),
        }
    }

    /// Tells the guest that the power button was pressed; what it does then is its own affair.
    pub fn press_power_button(&self) {
        self.pending.fetch_or(POWER_BUTTON, AcqRel);
        self.irq.raise();
    }
}

impl BusDevice for Ged {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (0, Some(first)) = (offset, data.first_mut()) {
            *first = self.pending.swap(0, AcqRel);
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }
}

#[cfg(test)]
mod tests;
