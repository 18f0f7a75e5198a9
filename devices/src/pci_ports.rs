//! PCI's configuration mechanism #1 (ports 0xcf8..=0xcff) of a bus that holds a host bridge and nothing else.
//!
//! Owns the latched address; runs on the vCPU that makes the access. It is there because a PC without these ports makes
//! a kernel look for other mechanisms and complain on its console, byte by byte.
use crate::bus::{BusDevice, Effect};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes of port space: the address register and the data register.
pub const SIZE: u64 = 8;

const DATA: u64 = 4;
const ENABLE: u32 = 1 << 31;
/// Bus, device and function; those of the host bridge are all 0.
const FUNCTION: u32 = 0x00ff_ff00;
/// The first registers of the host bridge (PCI Local Bus Specification 3.0, section 6.1): Intel's 440FX, as every
/// hypervisor says, then command and status, then class 06 (bridge), subclass 00 (host).
const HOST_BRIDGE: [u32; 3] = [0x1237_8086, 0, 0x0600_0000];

/// See the module.
#[derive(Debug, Default)]
pub struct PciPorts {
    address: AtomicU32,
}

impl PciPorts {
    /// The register that the latched address names; all ones where no device answers.
    fn register(&self) -> u32 {
        let address = self.address.load(Relaxed);
        if address & ENABLE == 0 || address & FUNCTION != 0 {
            return u32::MAX;
        }
        HOST_BRIDGE.get((address & 0xfc) as usize / 4).copied().unwrap_or(0)
    }
}

impl BusDevice for PciPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let register = if offset < DATA {
            self.address.load(Relaxed)
        } else {
            self.register()
        };
        let bytes = register.to_le_bytes();
        for (to, from) in data.iter_mut().zip(bytes.iter().skip(offset as usize % 4)) {
            *to = *from;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        // Only a double word at the address register latches; the host bridge has nothing to write to.
        if let (0, Ok(address)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address.store(u32::from_le_bytes(address) & !3, Relaxed);
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
