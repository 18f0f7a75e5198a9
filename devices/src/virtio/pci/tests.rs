#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
use super::{
    super::{
        config_space::ConfigSpace as DeviceConfig,
        io_thread::IoThread,
        queue::Queue,
        testing::{self, Driver, Echo},
    },
    *,
};
use crate::{
    pci::{
        Function as _,
        msix::{Message, MsiError, MsiRoute},
        root::{Apertures, Root},
    },
    scribble::Dice,
};
use std::time::{Duration, Instant};
use vm_memory::GuestMemoryMmap;

/// Vectors by their message's data, and doorbells by their place.
#[derive(Default)]
struct Host {
    connected: Mutex<Vec<(u32, IrqLine)>>,
    doorbells: Mutex<Vec<(Space, u64)>>,
    /// Doorbells that can be connected yet.
    room: AtomicU16,
}

struct Route(Arc<Host>, IrqLine, Option<u32>);

struct Messages(Arc<Host>);

impl MsiBackend for Messages {
    fn route(&self, line: IrqLine) -> Box<dyn MsiRoute> {
        Box::new(Route(self.0.clone(), line, None))
    }
}

impl MsiRoute for Route {
    fn connect(&mut self, message: Message) -> Result<(), MsiError> {
        self.2 = Some(message.data);
        lock(&self.0.connected).push((message.data, self.1.clone()));
        Ok(())
    }
    fn disconnect(&mut self) {
        lock(&self.0.connected).retain(|(data, _)| Some(*data) != self.2);
    }
}

impl Doorbells for Host {
    fn connect(&self, space: Space, address: u64, _: &EventFd) -> io::Result<()> {
        let room = self.room.load(Ordering::Relaxed);
        self.room.store(
            room.checked_sub(1).ok_or_else(|| io::Error::other("full"))?,
            Ordering::Relaxed,
        );
        lock(&self.doorbells).push((space, address));
        Ok(())
    }
    fn disconnect(&self, space: Space, address: u64, _: &EventFd) {
        self.room.fetch_add(1, Ordering::Relaxed);
        let mut doorbells = lock(&self.doorbells);
        let at = doorbells.iter().position(|bell| *bell == (space, address)).unwrap();
        doorbells.remove(at);
    }
}

/// A bus with an echo device on it.
struct Machine {
    root: Root,
    host: Arc<Host>,
    transport: Arc<PciTransport>,
}

const FUNCTION: u8 = 1 << 3;
const BAR: u64 = 0xe000_0000;
const PORT: u64 = 0x1000;

impl Machine {
    fn new(memory: GuestMemoryMmap, ports: bool) -> Self {
        let host = Arc::new(Host {
            room: AtomicU16::new(100),
            ..Host::default()
        });
        let wiring = Wiring {
            messages: Arc::new(Messages(host.clone())),
            doorbells: host.clone(),
            ports,
        };
        let thread = Arc::new(IoThread::spawn("test").unwrap());
        let device = Echo::<2>(Arc::new(DeviceConfig::new([1, 2, 3, 4, 5, 6, 7, 8], 4..8)));
        let (transport, space) = PciTransport::new("echo", &wiring, |signals| {
            Function::new(device, vec![thread], memory, signals).map_err(TransportError::from)
        })
        .unwrap();
        let transport = Arc::new(transport);
        let root = Root::new(Apertures {
            memory: BAR..BAR + 0x10_0000,
            io: PORT..0x1_0000,
        });
        assert_eq!(root.plug(space, transport.clone()).unwrap().number(), FUNCTION);
        Self { root, host, transport }
    }

    /// As [`Machine::new`] with ports, with its BARs turned on.
    fn on(memory: GuestMemoryMmap) -> Self {
        let machine = Self::new(memory, true);
        machine.set_config(4, &[3, 0]);
        machine
    }

    fn config<const N: usize>(&self, offset: u8) -> [u8; N] {
        let mut data = [0; N];
        self.root.read_config(FUNCTION, offset.into(), &mut data);
        data
    }

    fn set_config(&self, offset: u8, data: &[u8]) {
        assert_eq!(self.root.write_config(FUNCTION, offset.into(), data), Effect::None);
    }

    /// Offsets of the capabilities with this identifier, and what follows their first two bytes.
    fn capabilities(&self, id: u8) -> Vec<(u8, Vec<u8>)> {
        let [mut at] = self.config(0x34);
        let mut found = Vec::new();
        while at != 0 {
            let [here, next, length] = self.config::<3>(at);
            if here == id {
                let body = (2..length.max(12)).map(|offset| self.config::<1>(at + offset)[0]);
                found.push((at, body.collect()));
            }
            at = next;
        }
        found
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.root.read(Space::Memory, BAR + offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn read_byte(&self, offset: u64) -> u8 {
        let mut data = [0xff];
        self.root.read(Space::Memory, BAR + offset, &mut data);
        data[0]
    }

    fn read_word(&self, offset: u64) -> u16 {
        let mut data = [0xff; 2];
        self.root.read(Space::Memory, BAR + offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn write(&self, offset: u64, data: &[u8]) {
        assert_eq!(self.root.write(Space::Memory, BAR + offset, data), Effect::None);
    }

    fn write_word(&self, offset: u64, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    fn status(&self, value: u8) -> u8 {
        self.write(0x14, &[value]);
        self.read_byte(0x14)
    }

    /// Negotiates up to FEATURES_OK.
    fn negotiate(&self) {
        for status in [0, 1, 3] {
            self.status(status);
        }
        for (page, features) in [(0u32, 1u32 << 3), (1, 1)] {
            self.write(8, &page.to_le_bytes());
            self.write(0xc, &features.to_le_bytes());
        }
        assert_eq!(self.status(11), 11);
    }

    fn set_up(&self, index: u16, queue: &Queue) {
        self.write_word(0x16, index);
        self.write_word(0x18, queue.size);
        for (offset, value) in [(0x20, queue.descriptors), (0x28, queue.available), (0x30, queue.used)] {
            self.write(offset, &(value as u32).to_le_bytes());
            self.write(offset + 4, &((value >> 32) as u32).to_le_bytes());
        }
        self.write_word(0x1c, 1);
    }

    /// Turns MSI-X on; vector n sends the message n.
    fn messages(&self) {
        for vector in 0..3u32 {
            let entry = TABLE.start + u64::from(vector) * msix::ENTRY;
            self.write(entry + 8, &vector.to_le_bytes());
            self.write(entry + 12, &[0; 4]);
        }
        let (at, _) = self.capabilities(msix::CAPABILITY)[0];
        self.set_config(at + 2, &[0, 0x80]);
    }

    /// Waits for an interrupt of the vector.
    #[track_caller]
    fn interrupted(&self, vector: u32) {
        let line = lock(&self.host.connected)
            .iter()
            .find(|(data, _)| *data == vector)
            .unwrap()
            .1
            .clone();
        let until = Instant::now() + Duration::from_secs(120);
        while line.event().read().is_err() {
            assert!(Instant::now() < until, "no interrupt");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let machine = Machine::new(testing::memory(), true);
    assert_eq!(machine.config(0), [0xf4, 0x1a, 0x42, 0x10]);
    assert_eq!(machine.config(8), [1, 0, 0x80, 1]);
    let all: Vec<_> = machine.capabilities(9).into_iter().map(|(_, body)| body).collect();
    let kinds: Vec<_> = all.iter().map(|body| (body[0], body[1], body[2])).collect();
    assert_eq!(kinds, [(16, 1, 0), (20, 2, 2), (16, 3, 0), (16, 4, 0), (20, 5, 0)]);
    let number = |body: &[u8], at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    let places: Vec<_> = all.iter().map(|body| (number(body, 6), number(body, 10))).collect();
    assert_eq!(places, [(0, 0x38), (0, 8), (0x40, 1), (0x100, 8), (0, 0)]);
    assert_eq!(number(&all[1], 14), 4, "notify_off_multiplier");
    let (_, msix) = &machine.capabilities(msix::CAPABILITY)[0];
    assert_eq!(msix[..], [2, 0, 0, 0x20, 0, 0, 0, 0x60, 0, 0]);
}

#[test]
fn without_ports_the_doorbells_are_in_memory() {
    let machine = Machine::new(testing::memory(), false);
    let notify: Vec<_> = machine
        .capabilities(9)
        .into_iter()
        .filter(|(_, body)| body[1] == 2)
        .collect();
    assert_eq!(notify.len(), 1);
    machine.set_config(4, &[2, 0]);
    assert_eq!(
        *lock(&machine.host.doorbells),
        [(Space::Memory, BAR + 0x1000), (Space::Memory, BAR + 0x1004)]
    );
}

#[test]
fn doorbells_follow_their_bar() {
    let machine = Machine::new(testing::memory(), true);
    let doorbells = || lock(&machine.host.doorbells).clone();
    machine.set_config(4, &[2, 0]);
    assert_eq!(doorbells(), [], "ports do not decode yet");
    machine.set_config(4, &[3, 0]);
    assert_eq!(doorbells(), [(Space::Io, PORT), (Space::Io, PORT + 4)]);
    machine.set_config(0x18, &0x2000u32.to_le_bytes());
    assert_eq!(doorbells(), [(Space::Io, 0x2000), (Space::Io, 0x2004)]);
    machine.set_config(4, &[0, 0]);
    assert_eq!(doorbells(), []);
    // One that cannot be connected takes none with it that can, and nothing is left behind.
    machine.host.room.store(1, Ordering::Relaxed);
    machine.set_config(4, &[3, 0]);
    assert_eq!(doorbells(), []);
    machine.set_config(4, &[0, 0]);
    assert_eq!(machine.host.room.load(Ordering::Relaxed), 1);
}

#[test]
fn a_queue_is_served_and_its_vector_raised() {
    let mut driver = Driver::new(8);
    let machine = Machine::on(driver.memory.clone());
    machine.messages();
    machine.negotiate();
    machine.write_word(0x10, 0);
    machine.set_up(1, &driver.queue);
    machine.write_word(0x1a, 2);
    assert_eq!((machine.read_word(0x10), machine.read_word(0x1a)), (0, 2));
    assert_eq!(machine.status(15), 15);
    driver.add(&[b"one"], &[]);
    let _ = machine.root.write(Space::Io, PORT + 4, &1u16.to_le_bytes());
    machine.interrupted(2);
    assert_eq!(driver.used().len(), 1);
    driver.add(&[b"two"], &[]);
    machine.write(NOTIFY_1, &1u16.to_le_bytes());
    machine.interrupted(2);
    assert_eq!(
        (driver.used().len(), machine.read_byte(0x40)),
        (1, 0),
        "no ISR status with MSI-X"
    );
}

/// The doorbell of queue 1 in memory.
const NOTIFY_1: u64 = 0x1004;

#[test]
fn without_msix_the_isr_status_tells_and_forgets() {
    let mut driver = Driver::new(8);
    let machine = Machine::on(driver.memory.clone());
    machine.negotiate();
    machine.set_up(1, &driver.queue);
    machine.status(15);
    driver.add(&[b"one"], &[]);
    machine.write(NOTIFY_1, &1u16.to_le_bytes());
    let until = Instant::now() + Duration::from_secs(120);
    while machine.read_byte(0x40) != ISR_QUEUE {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(machine.read_byte(0x40), 0);
    machine.transport.interrupts.raise(None);
    assert_eq!(machine.read_byte(0x40), ISR_CONFIG);
}

#[test]
fn the_common_configuration_reads_in_every_width() {
    let machine = Machine::on(testing::memory());
    assert_eq!(
        (machine.read(4), machine.read_word(4), machine.read_byte(7)),
        (0x3000_0008, 8, 0x30)
    );
    machine.write(0, &1u32.to_le_bytes());
    assert_eq!((machine.read(4), machine.read(0)), (1, 1));
    assert_eq!((machine.read_word(0x12), machine.read_word(0x18)), (2, 16));
    machine.write_word(0x16, 1);
    assert_eq!((machine.read_word(0x18), machine.read_word(0x1e)), (8, 1));
    for beyond in [0x38, 0x3c, 0x44, 0x800, 0x7000, 0x7ffc] {
        assert!([0, u32::MAX].contains(&machine.read(beyond)), "{beyond:#x}");
    }
    assert_eq!((machine.read(0x100), machine.read_byte(0x107)), (0x0403_0201, 8));
}

#[test]
fn a_bad_queue_selects_nothing() {
    let machine = Machine::on(testing::memory());
    machine.negotiate();
    for index in [2, 3, 0x100, u16::MAX] {
        machine.set_up(index, &Queue::new(8));
        machine.write_word(0x1a, 1);
        let fields = [0x18, 0x1c, 0x1e, 0x20, 0x28, 0x30].map(|offset| machine.read_word(offset));
        assert_eq!((fields, machine.read_word(0x1a)), ([0; 6], NO_VECTOR), "{index}");
    }
    machine.set_up(0, &Driver::new(8).queue);
    assert_eq!(machine.status(15), 15);
}

#[test]
fn vectors_that_do_not_exist_are_none_and_a_reset_forgets_the_others() {
    let machine = Machine::on(testing::memory());
    assert_eq!(machine.read_word(0x10), NO_VECTOR);
    for (vector, kept) in [(2, 2), (3, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR), (1, 1)] {
        for register in [0x10, 0x1a] {
            machine.write_word(register, vector);
            assert_eq!(machine.read_word(register), kept);
        }
    }
    machine.messages();
    machine.status(0);
    assert_eq!(
        (machine.read_word(0x10), machine.read_word(0x1a)),
        (NO_VECTOR, NO_VECTOR)
    );
    assert_eq!(lock(&machine.host.connected).len(), 3, "MSI-X itself stays");
}

#[test]
fn queues_keep_their_set_up_once_enabled_and_0_does_not_disable_them() {
    let machine = Machine::on(testing::memory());
    machine.set_up(0, &Queue::new(4));
    assert_eq!(machine.read_word(0x18), 16, "before FEATURES_OK");
    machine.negotiate();
    machine.set_up(0, &Queue::new(4));
    machine.write_word(0x18, 8);
    machine.write_word(0x1c, 0);
    machine.write(0x20, &1u64.to_le_bytes());
    assert_eq!(
        (machine.read_word(0x18), machine.read_word(0x1c), machine.read(0x20)),
        (4, 1, 0)
    );
}

#[test]
fn config_space_is_a_window_to_the_bars() {
    let machine = Machine::new(testing::memory(), true);
    let (at, _) = machine
        .capabilities(9)
        .into_iter()
        .find(|(_, body)| body[1] == 5)
        .unwrap();
    let aim = |bar: u8, offset: u32, length: u32| {
        machine.set_config(at + 4, &[bar]);
        machine.set_config(at + 8, &offset.to_le_bytes());
        machine.set_config(at + 12, &length.to_le_bytes());
    };
    // Even before memory decodes.
    aim(0, 4, 4);
    assert_eq!(machine.config(at + 16), [8, 0, 0, 0x30]);
    aim(0, 0x14, 1);
    machine.set_config(at + 16, &[1]);
    assert_eq!(machine.config(at + 16), [1, 0xff, 0xff, 0xff]);
    assert_eq!(lock(&machine.transport.registers).function.status(), 1);
    for (bar, offset, length) in [
        (0, 0x14, 0),
        (0, 0x14, 3),
        (0, 0x15, 2),
        (0, 0x8000, 1),
        (0, 0x7ffe, 4),
        (1, 0, 4),
        (7, 0, 1),
        (0, u32::MAX, 1),
    ] {
        aim(bar, offset, length);
        machine.set_config(at + 16, &[0xaa; 4]);
        assert_eq!(machine.config(at + 16), [0xaa; 4], "{bar} {offset:#x} {length}");
    }
    assert_eq!(lock(&machine.transport.registers).function.status(), 1);
    aim(2, 4, 2);
    machine.set_config(at + 16, &[1, 0]);
    assert_eq!(machine.transport.kicks[1].read().unwrap(), 1);
}

#[test]
fn many_queues_ring_in_memory() {
    assert!(Notify::new(64, true).bar().is_some());
    assert!(Notify::new(65, true).bar().is_none());
    assert_eq!(
        Notify::new(65, true).doorbells(MEMORY_BAR),
        Some((Space::Memory, 0x1000))
    );
}

#[test]
fn survives_a_guest_that_writes_everything_everywhere() {
    let driver = Driver::new(8);
    let machine = Machine::on(driver.memory.clone());
    let mut dice = Dice::new(11);
    for round in 0..20_000 {
        if round % 500 == 0 {
            machine.set_config(0x10, &(BAR as u32).to_le_bytes());
            machine.set_config(0x14, &[0; 4]);
            machine.set_config(4, &[3, 0]);
            machine.negotiate();
            machine.set_up(0, &driver.queue);
        }
        let width = 1 << dice.below(4);
        let mut data: Vec<u8> = (0..width)
            .map(|_| u8::try_from(dice.below(256)).unwrap() & u8::try_from(dice.below(256)).unwrap())
            .collect();
        // Half of the accesses meet the common configuration, a few config space itself.
        match dice.below(8) {
            0..4 => drop(machine.transport.write_bar(0, dice.below(0x40), &data)),
            4 => drop(
                machine
                    .transport
                    .write_bar(0, dice.below(layout::MEMORY_SIZE - 8), &data),
            ),
            5 => machine
                .transport
                .read_bar(0, dice.below(layout::MEMORY_SIZE - 8), &mut data),
            6 => drop(machine.transport.write_bar(2, dice.below(8), &data)),
            _ => {
                let offset = u16::try_from(dice.below(0xf8)).unwrap();
                let _ = machine.root.write_config(FUNCTION, offset, &data);
                machine.root.read_config(FUNCTION, offset, &mut data);
            }
        }
    }
    machine.set_config(4, &[0, 0]);
    assert_eq!(*lock(&machine.host.doorbells), []);
    assert_eq!(machine.transport.kicks.len(), 2);
}
