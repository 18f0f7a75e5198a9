//! PCI's configuration mechanism #1 (ports 0xcf8..=0xcff; PCI Local Bus 3.0, section 3.2.2.3.2).
//!
//! Owns the latched address; runs on the vCPU that makes the access. A port costs a guest's exit less than memory does,
//! and a PC without these ports makes a kernel look for other mechanisms and complain on its console, byte by byte.
use super::root::Root;
use crate::bus::{BusDevice, Effect};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// Bytes of port space: the address register and the data register.
pub const SIZE: u64 = 8;

const DATA: u64 = 4;
const ENABLE: u32 = 1 << 31;

/// See the module.
pub struct ConfigPorts {
    root: Arc<Root>,
    address: AtomicU32,
}

impl ConfigPorts {
    /// The root's config spaces.
    pub fn new(root: Arc<Root>) -> Self {
        Self {
            root,
            address: AtomicU32::new(0),
        }
    }

    /// The function and the register that the latched address names, at a byte of the data port.
    fn target(&self, offset: u64) -> Option<(u8, u16)> {
        let address = self.address.load(Relaxed);
        let [register, function, bus, _] = address.to_le_bytes();
        let byte = u16::try_from(offset.checked_sub(DATA)?).ok()?;
        (address & ENABLE != 0 && bus == 0).then_some((function, u16::from(register & 0xfc) + byte))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset < DATA {
            let bytes = self.address.load(Relaxed).to_le_bytes();
            for (to, from) in data.iter_mut().zip(bytes.iter().skip(offset as usize)) {
                *to = *from;
            }
        } else if let Some((function, register)) = self.target(offset) {
            self.root.read_config(function, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        // Only a double word at the address register latches.
        if let (0, Ok(address)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address.store(u32::from_le_bytes(address) & !3, Relaxed);
        } else if let Some((function, register)) = self.target(offset) {
            return self.root.write_config(function, register, data);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
