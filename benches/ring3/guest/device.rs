//! A device behind virtio-mmio registers (Virtio 1.2 §4.2.2), from reset to DRIVER_OK.
use crate::{
    Failure,
    queue::{Queue, Rings, SIZE},
};

pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT: u64 = 1 << 28;
const VERSION_1: u64 = 1 << 32;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;

mod register {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const KIND: u64 = 0x08;
    pub const FEATURES: u64 = 0x10;
    pub const FEATURES_PAGE: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_PAGE: u64 = 0x24;
    pub const QUEUE: u64 = 0x30;
    pub const QUEUE_MOST: u64 = 0x34;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const DESCRIPTORS: u64 = 0x80;
    pub const AVAILABLE: u64 = 0x90;
    pub const USED: u64 = 0xa0;
    pub const CONFIG: u64 = 0x100;
}

pub struct Device {
    window: u64,
    features: u64,
}

impl Device {
    /// The device at `window`, reset.
    pub fn find(window: u64) -> Result<Self, Failure> {
        let device = Self { window, features: 0 };
        if device.read(register::MAGIC) != 0x7472_6976 || device.read(register::VERSION) != 2 {
            return Err("there is no virtio device");
        }
        device.write(register::STATUS, 0);
        device.write(register::STATUS, ACKNOWLEDGE);
        device.write(register::STATUS, ACKNOWLEDGE | DRIVER);
        Ok(device)
    }

    /// Device type (§5).
    pub fn kind(&self) -> u32 {
        self.read(register::KIND)
    }

    /// Accepts what is offered of `wanted`.
    pub fn negotiate(&mut self, wanted: u64) -> Result<(), Failure> {
        let page = |index| {
            self.write(register::FEATURES_PAGE, index);
            u64::from(self.read(register::FEATURES))
        };
        let offered = page(0) | page(1) << 32;
        self.features = offered & (wanted | VERSION_1);
        for (index, value) in [(0, self.features as u32), (1, (self.features >> 32) as u32)] {
            self.write(register::DRIVER_FEATURES_PAGE, index);
            self.write(register::DRIVER_FEATURES, value);
        }
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        match self.read(register::STATUS) & FEATURES_OK {
            0 => Err("the device refuses the features"),
            _ => Ok(()),
        }
    }

    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Sets queue `index` up.
    pub fn queue(&self, index: u16, rings: &'static Rings) -> Result<Queue, Failure> {
        self.write(register::QUEUE, index.into());
        if self.read(register::QUEUE_MOST) < SIZE as u32 {
            return Err("the device has no such queue, or a short one");
        }
        self.write(register::QUEUE_SIZE, SIZE as u32);
        for (register, at) in [
            (register::DESCRIPTORS, rings.descriptors()),
            (register::AVAILABLE, rings.available()),
            (register::USED, rings.used()),
        ] {
            self.write(register, at as u32);
            self.write(register + 4, (at >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
        let notify = (self.window + register::NOTIFY) as *mut u32;
        Ok(Queue::new(index, rings, notify, self.has(EVENT_IDX)))
    }

    /// The device may serve its queues from now on.
    pub fn start(&self) -> Result<(), Failure> {
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        match self.read(register::STATUS) & (DRIVER_OK | NEEDS_RESET) {
            DRIVER_OK => Ok(()),
            _ => Err("the device does not start"),
        }
    }

    /// Whether it has given up.
    pub fn is_broken(&self) -> bool {
        self.read(register::STATUS) & NEEDS_RESET != 0
    }

    /// Eight bytes of its configuration.
    pub fn config(&self, offset: u64) -> u64 {
        let low = self.read(register::CONFIG + offset);
        let high = self.read(register::CONFIG + offset + 4);
        u64::from(low) | u64::from(high) << 32
    }

    fn read(&self, offset: u64) -> u32 {
        // SAFETY: the window is mapped one to one, and reading a register of a device changes no memory of the program.
        unsafe { ((self.window + offset) as *const u32).read_volatile() }
    }

    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as above; the device changes no memory but what its queues give it, which is atomic.
        unsafe { ((self.window + offset) as *mut u32).write_volatile(value) };
    }
}
