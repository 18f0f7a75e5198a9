//! The enhanced configuration access mechanism (PCI Express 5.0, section 7.2.2): config spaces as memory.
//!
//! Owns nothing; runs on the vCPU that makes the access.
use super::root::Root;
use crate::bus::{BusDevice, Effect};
use std::sync::Arc;

/// Bytes of the window of one bus: 4 KiB for each of 256 functions.
pub const SIZE: u64 = 1 << 20;

/// See the module.
pub struct Ecam(Arc<Root>);

impl Ecam {
    /// The root's config spaces.
    pub fn new(root: Arc<Root>) -> Self {
        Self(root)
    }
}

/// Function number and register.
fn target(offset: u64) -> Option<(u8, u16)> {
    Some((u8::try_from(offset >> 12).ok()?, u16::try_from(offset & 0xfff).ok()?))
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((function, register)) = target(offset) {
            self.0.read_config(function, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        match target(offset) {
            Some((function, register)) => self.0.write_config(function, register, data),
            None => Effect::None,
        }
    }
}
