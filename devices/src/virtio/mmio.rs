//! The MMIO transport (Virtio 1.2 §4.2): a window of registers and one interrupt line for each device.
//!
//! Runs on the vCPU that makes the access. Kicks normally never come here: the board connects [`MmioTransport::kicks`] to
//! the notify register by ioeventfds.
use super::{
    Interrupt, Signals, Transport,
    function::{Function, Half, QueueField},
};
use crate::{
    bus::{BusDevice, Effect},
    irq::IrqLine,
    lock::lock,
};
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};
use vmm_sys_util::eventfd::EventFd;

/// Bytes in the window of a device.
pub const WINDOW: u64 = 0x200;
/// Offset of QueueNotify: a 32-bit write of a queue's index kicks that queue.
pub const NOTIFY: u64 = 0x50;

/// "virt" in little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface.
const VERSION: u32 = 2;
/// "CRCL": the spec leaves the vendor to us.
const VENDOR: u32 = 0x4c43_5243;

/// InterruptStatus: used buffers, or a change of the configuration (§4.2.2).
const USED: u32 = 1;
const CONFIG: u32 = 2;

/// Offset of the device-specific configuration.
const CONFIG_SPACE: u64 = 0x100;

/// A device behind MMIO registers.
#[derive(Debug)]
pub struct MmioTransport {
    registers: Mutex<Registers>,
    interrupt: Arc<Line>,
    kicks: Vec<Arc<EventFd>>,
}

#[derive(Debug)]
struct Registers {
    function: Function,
    features_page: u32,
    driver_features_page: u32,
    queue: u16,
}

/// The line, and what it stands for when it is raised.
#[derive(Debug)]
struct Line {
    status: AtomicU32,
    irq: IrqLine,
}

impl Line {
    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::AcqRel);
        self.irq.raise();
    }
}

impl Interrupt for Arc<Line> {
    fn used(&self, _queue: u16) {
        self.raise(USED);
    }

    fn config(&self) {
        self.raise(CONFIG);
    }
}

impl MmioTransport {
    /// The transport of what `make` gives for the signals of the device called `name`, which raise `irq`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn new<E>(name: &str, irq: IrqLine, make: impl FnOnce(Signals) -> Result<Function, E>) -> Result<Self, E> {
        let interrupt = Arc::new(Line {
            status: AtomicU32::new(0),
            irq,
        });
        let function = make(Signals::new(name, Box::new(interrupt.clone())))?;
        Ok(Self {
            kicks: function.kicks().to_vec(),
            registers: Mutex::new(Registers {
                function,
                features_page: 0,
                driver_features_page: 0,
                queue: 0,
            }),
            interrupt,
        })
    }

    /// The event of each queue's kick.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        lock(&self.registers)
    }
}

impl Transport for MmioTransport {
    fn pause(&self) {
        self.lock().function.pause();
    }

    fn resume(&self) {
        self.lock().function.resume();
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG_SPACE {
            return self.lock().function.read_config(offset - CONFIG_SPACE, data);
        }
        // §4.2.2.2: the driver uses aligned 32-bit accesses below the configuration; others read as 0.
        data.fill(0);
        let Ok(register) = <&mut [u8; 4]>::try_from(data) else {
            return;
        };
        *register = match offset {
            0x60 => self.interrupt.status.load(Ordering::Acquire),
            _ => self.lock().read(offset),
        }
        .to_le_bytes();
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        if offset >= CONFIG_SPACE {
            self.lock().function.write_config(offset - CONFIG_SPACE, data);
        } else if let Ok(value) = data.try_into().map(u32::from_le_bytes) {
            match offset {
                0x64 => {
                    self.interrupt.status.fetch_and(!value, Ordering::AcqRel);
                }
                0x70 if value == 0 => {
                    self.lock().write(offset, 0);
                    self.interrupt.status.store(0, Ordering::Release);
                }
                _ => self.lock().write(offset, value),
            }
        }
        Effect::None
    }
}

impl Registers {
    fn read(&self, offset: u64) -> u32 {
        let function = &self.function;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => function.kind().into(),
            0x0c => VENDOR,
            0x10 => function.features(self.features_page),
            0x34 => function.queue(self.queue).map_or(0, |queue| queue.max_size.into()),
            0x44 => function.queue(self.queue).map_or(0, |queue| queue.ready.into()),
            0x70 => function.status().into(),
            // §4.2.2: a length of -1 means that there is no such shared memory; its base is then unmapped as well.
            0xb0..0xc0 => u32::MAX,
            0xfc => function.config().generation().into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let field = match offset {
            0x14 => {
                self.features_page = value;
                return;
            }
            0x20 => return self.function.set_driver_features(self.driver_features_page, value),
            0x24 => {
                self.driver_features_page = value;
                return;
            }
            0x30 => {
                // An index that no queue can have selects none.
                self.queue = u16::try_from(value).unwrap_or(u16::MAX);
                return;
            }
            NOTIFY => return self.function.kick(u16::try_from(value).unwrap_or(u16::MAX)),
            0x70 => return self.function.set_status(value as u8),
            0x38 => QueueField::Size,
            0x44 => QueueField::Ready,
            0x80 => QueueField::Descriptors(Half::Low),
            0x84 => QueueField::Descriptors(Half::High),
            0x90 => QueueField::Available(Half::Low),
            0x94 => QueueField::Available(Half::High),
            0xa0 => QueueField::Used(Half::Low),
            0xa4 => QueueField::Used(Half::High),
            _ => return,
        };
        self.function.set_queue(self.queue, field, value);
    }
}

#[cfg(test)]
mod tests;
