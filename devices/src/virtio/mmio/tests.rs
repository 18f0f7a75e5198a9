#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
use super::{
    super::{
        config_space::ConfigSpace,
        io_thread::IoThread,
        queue::Queue,
        testing::{self, Driver, Echo},
    },
    *,
};
use std::time::Duration;
use vm_memory::GuestMemoryMmap;

/// A machine with an echo device and its driver.
struct Machine {
    transport: MmioTransport,
    config: Arc<ConfigSpace>,
    irq: IrqLine,
}

impl Machine {
    fn new(memory: GuestMemoryMmap) -> Self {
        let config = Arc::new(ConfigSpace::new([1, 2, 3, 4, 5, 6, 7, 8], 4..8));
        let irq = IrqLine::new().unwrap();
        let thread = Arc::new(IoThread::spawn("test").unwrap());
        let device = Echo::<42>(config.clone());
        let transport = MmioTransport::new("echo", irq.clone(), |signals| {
            Function::new(device, vec![thread], memory, signals)
        })
        .unwrap();
        Self { transport, config, irq }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        assert_eq!(self.transport.write(offset, &value.to_le_bytes()), Effect::None);
    }

    /// Negotiates up to FEATURES_OK, as Linux does.
    fn negotiate(&self) {
        for status in [0, 1, 3] {
            self.write(0x70, status);
        }
        for (page, features) in [(0, 1 << 3), (1, 1)] {
            self.write(0x24, page);
            self.write(0x20, features);
        }
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11);
    }

    fn set_up(&self, index: u32, queue: &Queue) {
        self.write(0x30, index);
        self.write(0x38, queue.size.into());
        for (offset, value) in [(0x80, queue.descriptors), (0x90, queue.available), (0xa0, queue.used)] {
            self.write(offset, value as u32);
            self.write(offset + 4, (value >> 32) as u32);
        }
        self.write(0x44, 1);
        assert_eq!(self.read(0x44), 1);
    }

    /// Waits for an interrupt, tells why it came, and acknowledges it.
    fn interrupt(&self) -> u32 {
        for _ in 0..10_000 {
            if self.irq.event().read().is_ok() {
                let status = self.read(0x60);
                self.write(0x64, status);
                return status;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no interrupt came");
    }
}

#[test]
fn the_registers_tell_what_the_device_is() {
    let machine = Machine::new(testing::memory());
    assert_eq!([0, 4, 8].map(|at| machine.read(at)), [MAGIC, 2, 42]);
    machine.write(0x14, 0);
    assert_eq!(machine.read(0x10), 1 << 3 | 1 << 28 | 1 << 29);
    machine.write(0x14, 1);
    assert_eq!(machine.read(0x10), 1);
    machine.write(0x14, 2);
    assert_eq!(machine.read(0x10), 0);
    for (index, size) in [(0, 16), (1, 8), (2, 0), (u32::MAX, 0)] {
        machine.write(0x30, index);
        assert_eq!(machine.read(0x34), size);
    }
    assert_eq!(
        (machine.read(0x100), machine.read(0x106), machine.read(0x1fc)),
        (0x0403_0201, 0x0807, 0)
    );
    let mut narrow = [0xff; 2];
    machine.transport.read(0x00, &mut narrow);
    assert_eq!(narrow, [0, 0], "registers are 32 bits wide");
}

#[test]
fn chains_are_served_after_driver_ok_and_again_after_a_reset() {
    let memory = testing::memory();
    let machine = Machine::new(memory.clone());
    for _ in 0..3 {
        machine.negotiate();
        let mut driver = Driver::at(memory.clone(), 8, 0);
        memory_zero(&memory, &driver.queue);
        let driver = {
            driver.add(&[b"abc"], &[1]);
            driver
        };
        machine.set_up(1, &driver.queue);
        machine.write(NOTIFY, 1);
        machine.write(0x70, 15);
        assert_eq!(machine.interrupt(), USED);
        let mut driver = driver;
        assert_eq!(driver.used(), [(0, 0)]);
        // Paused: nobody serves; resumed: what came meanwhile is served without a kick.
        machine.transport.pause();
        driver.add(&[b"def"], &[]);
        machine.transport.resume();
        while driver.used().is_empty() {
            machine.interrupt();
        }
        machine.write(0x70, 0);
        assert_eq!((machine.read(0x70), machine.read(0x60)), (0, 0));
        while machine.irq.event().read().is_ok() {}
    }
}

fn memory_zero(memory: &GuestMemoryMmap, queue: &Queue) {
    use vm_memory::Bytes;
    for at in [queue.available, queue.used] {
        memory.write_slice(&[0; 256], vm_memory::GuestAddress(at)).unwrap();
    }
}

#[test]
fn the_status_machine_takes_no_short_cuts() {
    let machine = Machine::new(testing::memory());
    let status = |value| {
        machine.write(0x70, value);
        machine.read(0x70)
    };
    assert_eq!(status(2), 0, "DRIVER before ACKNOWLEDGE");
    assert_eq!(status(3), 3, "both at once");
    assert_eq!(status(1), 3, "bits are not cleared");
    assert_eq!(status(11), 3, "no VERSION_1");
    machine.write(0x24, 1);
    machine.write(0x20, 1);
    machine.write(0x24, 0);
    machine.write(0x20, 1 << 4);
    assert_eq!(status(11), 3, "a feature that is not offered");
    machine.write(0x20, 0);
    assert_eq!(status(7), 3, "DRIVER_OK before FEATURES_OK");
    machine.write(0x38, 4);
    machine.write(0x44, 1);
    assert_eq!(machine.read(0x44), 0, "queues before FEATURES_OK");
    assert_eq!(status(11), 11);
    machine.write(0x20, 1 << 3);
    assert_eq!(
        machine.transport.lock().function.driver_features(0),
        0,
        "features after FEATURES_OK"
    );
    for size in [0, 3, 32, 65536] {
        machine.write(0x38, size);
        assert_eq!(machine.transport.lock().function.queue(0).unwrap().size, 16);
    }
    machine.write(0x44, 1);
    machine.write(0x38, 4);
    assert_eq!(
        machine.transport.lock().function.queue(0).unwrap().size,
        16,
        "an enabled queue"
    );
    // Its tables are at address 0, where memory is: that works. Past DRIVER_OK they stay.
    assert_eq!(status(15), 15);
    machine.write(0x44, 0);
    assert_eq!(machine.read(0x44), 1);
    assert_eq!(status(143), 143, "FAILED at any time");
    assert_eq!(status(0), 0);
    assert_eq!(machine.read(0x44), 0);
}

#[test]
fn a_broken_driver_costs_a_reset_and_no_more() {
    let memory = testing::memory();
    let machine = Machine::new(memory.clone());
    // Tables that are not in memory.
    machine.negotiate();
    let queue = Queue {
        descriptors: testing::MEMORY,
        ..Driver::at(memory.clone(), 8, 0).queue
    };
    machine.set_up(0, &queue);
    machine.write(0x70, 15);
    assert_eq!(machine.read(0x70), 15 | 64);
    assert_eq!(machine.interrupt(), CONFIG);
    machine.transport.pause();
    machine.transport.resume();
    assert_eq!(machine.read(0x70), 15 | 64);
    // A device that cannot start: no queue.
    machine.negotiate();
    machine.write(0x70, 15);
    assert_eq!(machine.read(0x70), 15 | 64);
    machine.interrupt();
    // A chain that breaks the device's rules while it runs.
    machine.negotiate();
    let mut driver = Driver::at(memory.clone(), 8, 0);
    machine.set_up(0, &driver.queue);
    machine.write(0x70, 15);
    driver.add(&[&[0; 100]], &[]);
    machine.transport.kicks()[0].write(1).unwrap();
    assert_eq!(machine.interrupt(), CONFIG);
    assert_eq!(machine.read(0x70), 15 | 64);
    // And all is well after the next reset.
    memory_zero(&memory, &driver.queue);
    machine.negotiate();
    let mut driver = Driver::at(memory, 8, 0);
    driver.add(&[b"fine"], &[]);
    machine.set_up(0, &driver.queue);
    machine.write(0x70, 15);
    machine.write(NOTIFY, 0);
    assert_eq!(machine.interrupt(), USED);
    assert_eq!(machine.read(0x70), 15);
}

#[test]
fn configuration_changes_reach_the_driver_and_come_from_it() {
    let machine = Machine::new(testing::memory());
    machine.config.set(0, &[9]);
    assert!(machine.irq.event().read().is_err(), "no driver yet");
    machine.negotiate();
    let driver = Driver::new(8);
    machine.set_up(0, &driver.queue);
    machine.write(0x70, 15);
    let generation = machine.read(0xfc);
    machine.config.set(1, &[8, 7]);
    assert_eq!(machine.interrupt(), CONFIG);
    assert_ne!(machine.read(0xfc), generation);
    assert_eq!(machine.read(0x100), 0x0407_0809);
    machine.write(0x104, 0xaabb_ccdd);
    assert_eq!(machine.config.get::<4>(4), [0xdd, 0xcc, 0xbb, 0xaa]);
    machine.write(0x102, 0);
    machine.write(0x106, 0);
    assert_eq!(machine.config.get::<8>(0), [9, 8, 7, 4, 0xdd, 0xcc, 0xbb, 0xaa]);
}

/// Whatever is written in whatever state, the device answers and a reset brings it back.
#[test]
fn every_register_in_every_state() {
    let machine = Machine::new(testing::memory());
    for status in [0, 1, 3, 11, 15, 64, 128, 255] {
        for offset in (0..0x110).step_by(4) {
            for value in [0, 1, 7, 0x8000_0000, u32::MAX] {
                if status > 3 {
                    machine.negotiate();
                }
                machine.write(0x70, status);
                machine.write(offset, value);
                machine.read(offset);
            }
        }
    }
    machine.write(0x70, 0);
    assert_eq!(machine.read(0x70), 0);
}
