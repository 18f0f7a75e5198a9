//! The devices of the machine: their function and nothing else.
//!
//! This crate knows no KVM, no config file and no thread policy. A device answers accesses on the [`bus`], raises its
//! [`irq`], and says with an [`bus::Effect`] what the whole VM should do; it never stops the VM itself.
pub mod acpi_power;
pub mod bus;
pub mod ged;
pub mod gicv2m;
pub mod gpio;
pub mod i8042;
pub mod irq;
mod lock;
pub mod pci;
mod primecell;
pub mod pvpanic;
pub mod rate_limiter;
pub mod rtc;
#[cfg(test)]
mod scribble;
pub mod serial;
pub mod virtio;
