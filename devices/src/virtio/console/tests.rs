#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
use super::{
    super::{
        function::{Function, status},
        io_thread::IoThread,
        testing::{Count, Driver, HIGH, INDIRECT, MEMORY, NEXT, WRITE, memory, negotiate},
    },
    *,
};
use crate::{serial::SerialOutput, virtio::Signals};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Takes bytes while there is room.
#[derive(Default)]
struct Sink {
    bytes: Mutex<Vec<u8>>,
    room: AtomicUsize,
}

impl Sink {
    fn with_room(room: usize) -> Arc<Self> {
        let sink = Self::default();
        sink.room.store(room, Ordering::Relaxed);
        Arc::new(sink)
    }

    fn taken(&self) -> Vec<u8> {
        mem::take(&mut self.bytes.lock().unwrap())
    }
}

impl SerialOutput for Sink {
    fn put(&self, bytes: &[u8]) -> usize {
        let room = self.room.load(Ordering::Relaxed);
        let taken = room.min(bytes.len());
        self.room.store(room - taken, Ordering::Relaxed);
        self.bytes.lock().unwrap().extend(&bytes[..taken]);
        taken
    }

    fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed) > 0
    }
}

fn port(name: &str, sink: &Arc<Sink>) -> PortSpec {
    PortSpec {
        name: name.to_owned(),
        console: name.is_empty(),
        output: sink.clone(),
        input_wanted: EventFd::new(EFD_NONBLOCK).unwrap(),
    }
}

/// A device whose driver has the queues `rings`.
struct Rig {
    device: Console,
    worker: Option<ConsoleWorker>,
    drivers: Vec<Driver>,
}

impl Rig {
    fn new(ports: Vec<PortSpec>, multiport: bool) -> Self {
        let mut device = Console::new(ports).unwrap();
        let memory = memory();
        let drivers: Vec<_> = (0..device.queue_sizes().len() as u64)
            .map(|queue| Driver::at(memory.clone(), 16, queue * 0x2_0000))
            .collect();
        let worker = start(&mut device, &drivers, multiport);
        Self {
            device,
            worker: Some(worker),
            drivers,
        }
    }

    fn single(sink: &Arc<Sink>) -> Self {
        Self::new(vec![port("", sink)], false)
    }

    fn serve(&mut self, data: u32) {
        self.worker.as_mut().unwrap().serve(data);
    }

    /// Goes home and starts again, as a pause and a resume do.
    fn restart(&mut self) {
        let worker = self.worker.take().unwrap();
        for ring in self.device.stop(vec![worker]) {
            let (index, queue) = ring.stop();
            self.drivers[usize::from(index)].queue = queue;
        }
        self.worker = Some(start(&mut self.device, &self.drivers, false));
        self.serve(HOST);
    }

    /// A control message of the driver.
    fn say(&mut self, id: u32, event: u16, value: u16) {
        let message = message(id, event, value, &[]);
        self.drivers[3].add(&[&message], &[]);
        self.serve(3);
    }

    /// Gives the device `count` buffers for messages; their addresses.
    fn listen(&mut self, count: usize) -> Vec<u64> {
        let buffers = (0..count).map(|_| self.drivers[2].add(&[], &[64])[0]).collect();
        self.serve(2);
        buffers
    }

    /// What was written to the buffers of queue `queue`.
    fn heard(&mut self, queue: usize, buffers: &[u64]) -> Vec<Vec<u8>> {
        let used = self.drivers[queue].used();
        let pairs = used.iter().zip(buffers);
        pairs
            .map(|((_, len), at)| self.drivers[queue].bytes(*at, *len as usize))
            .collect()
    }
}

fn start(device: &mut Console, drivers: &[Driver], multiport: bool) -> ConsoleWorker {
    let setup = Setup {
        memory: drivers[0].memory.clone(),
        features: 1 << F_SIZE | u64::from(multiport) << F_MULTIPORT,
        signals: drivers[0].signals.clone(),
        rings: (0..).zip(drivers).map(|(index, driver)| driver.ring(index)).collect(),
    };
    device.start(setup).unwrap().pop().unwrap()
}

fn message(id: u32, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    let mut all = id.to_le_bytes().to_vec();
    all.extend([event.to_le_bytes(), value.to_le_bytes()].concat());
    all.extend(rest);
    all
}

#[test]
fn a_console_alone_offers_its_size_and_no_control_queues() {
    let sink = Sink::with_room(0);
    let device = Console::new(vec![port("", &sink)]).unwrap();
    assert_eq!((device.features(), device.queue_sizes()), (1, &[16, 16][..]));
    let device = Console::new(vec![port("a", &sink), port("b", &sink)]).unwrap();
    assert_eq!(
        (device.features(), device.queue_sizes()),
        (3, &[16, 16, 32, 32, 16, 16][..])
    );
    assert_eq!(device.config().get::<4>(4), 2_u32.to_le_bytes());
    let many = (0..40).map(|_| port("x", &sink)).collect();
    assert_eq!(Console::new(many).unwrap().queue_sizes().len(), 2 + 2 * MAX_PORTS);
}

#[test]
fn output_arrives_in_order() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::single(&sink);
    assert!(!rig.device.ports()[0].has_spoken());
    rig.drivers[1].add(&[b"one ", b"two "], &[]);
    rig.drivers[1].add(&[b"three"], &[]);
    rig.serve(1);
    assert_eq!(sink.taken(), b"one two three");
    assert_eq!(rig.drivers[1].used(), [(0, 0), (2, 0)]);
    assert!(rig.device.ports()[0].has_spoken());
}

#[test]
fn output_without_room_waits_in_the_ring() {
    let sink = Sink::with_room(6);
    let mut rig = Rig::single(&sink);
    let long = vec![b'x'; 3 * PIECE];
    rig.drivers[1].add(&[b"before"], &[]);
    rig.drivers[1].add(&[&long], &[]);
    rig.drivers[1].add(&[b"after"], &[]);
    rig.serve(1);
    assert_eq!(sink.taken(), b"before");
    assert_eq!(rig.drivers[1].used().len(), 1);
    sink.room.store(PIECE + 10, Ordering::Relaxed);
    rig.device.ports()[0].output_drained();
    rig.serve(HOST);
    assert_eq!(sink.taken().len(), PIECE + 10);
    assert!(rig.drivers[1].used().is_empty());
    sink.room.store(usize::MAX, Ordering::Relaxed);
    rig.serve(HOST);
    let rest = sink.taken();
    assert_eq!((rest.len(), rest.ends_with(b"xafter")), (2 * PIECE - 10 + 5, true));
    assert_eq!(rig.drivers[1].used().len(), 2);
}

#[test]
fn a_half_sent_request_is_sent_once_over_a_pause() {
    let sink = Sink::with_room(5);
    let mut rig = Rig::single(&sink);
    rig.drivers[1].add(&[b"hello, world"], &[]);
    rig.drivers[1].add(&[b"!"], &[]);
    rig.serve(1);
    assert_eq!(sink.taken(), b"hello");
    rig.restart();
    sink.room.store(usize::MAX, Ordering::Relaxed);
    rig.serve(HOST);
    assert_eq!(sink.taken(), b", world!");
    assert_eq!(rig.drivers[1].used(), [(0, 0), (1, 0)]);
}

#[test]
fn input_waits_for_buffers_and_for_a_driver_that_listens() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::single(&sink);
    let port = rig.device.ports()[0].clone();
    assert_eq!(port.receive(b"typed ahead"), 11);
    rig.serve(HOST);
    let small = rig.drivers[0].add(&[], &[5])[0];
    let large = rig.drivers[0].add(&[], &[64])[0];
    rig.serve(0);
    assert_eq!(rig.drivers[0].used(), [], "Linux would throw it away");
    rig.drivers[1].add(&[b"ready"], &[]);
    rig.serve(1);
    assert_eq!(rig.drivers[0].used(), [(0, 5), (1, 6)]);
    assert_eq!(rig.drivers[0].bytes(small, 5), b"typed");
    assert_eq!(rig.drivers[0].bytes(large, 6), b" ahead");
}

#[test]
fn input_beyond_the_bound_is_refused_and_asked_for_again() {
    let sink = Sink::with_room(0);
    let mut spec = port("", &sink);
    let wanted = EventFd::new(EFD_NONBLOCK).unwrap();
    spec.input_wanted = wanted.try_clone().unwrap();
    let mut rig = Rig::new(vec![spec], false);
    wanted.read().unwrap(); // a driver has come
    let port = rig.device.ports()[0].clone();
    port.set_open(true);
    assert_eq!(port.receive(&[b'x'; 5000]), port::INPUT_SIZE);
    assert_eq!(port.receive(b"more"), 0);
    assert!(wanted.read().is_err());
    rig.drivers[0].add(&[], &[port::INPUT_SIZE]);
    rig.serve(0);
    assert_eq!(wanted.read().unwrap(), 1);
    assert_eq!(port.receive(b"more"), 4);
}

#[test]
fn a_terminals_size_is_in_the_configuration_and_interrupts() {
    let sink = Sink::with_room(0);
    let rig = Rig::single(&sink);
    let count = Arc::new(Count::default());
    let config = rig.device.config();
    config.attach(Some(Signals::new("test", Box::new(count.clone()))));
    rig.device.ports()[0].resize(132, 43);
    assert_eq!(config.get::<4>(0), [132, 0, 43, 0]);
    assert_eq!(count.config.load(Ordering::Relaxed), 1);
    rig.device.ports()[0].resize(132, 43);
    assert_eq!((config.generation(), count.config.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn ports_are_announced_named_and_opened() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::new(vec![port("", &sink), port("org.example.log", &sink)], true);
    rig.device.ports()[0].resize(80, 24);
    let buffers = rig.listen(3);
    rig.say(0, control::event::DEVICE_READY, 1);
    assert_eq!(rig.heard(2, &buffers), [message(0, 1, 0, &[]), message(1, 1, 0, &[])]);
    rig.say(0, control::event::PORT_READY, 1);
    rig.say(1, control::event::PORT_READY, 1);
    let mut all = rig.heard(2, &buffers[2..]);
    let more = rig.listen(8);
    all.extend(rig.heard(2, &more));
    assert_eq!(
        all,
        [
            message(0, 4, 1, &[]),
            message(0, 6, 1, &[]),
            message(0, 5, 0, &[80, 0, 24, 0]),
            message(1, 7, 1, b"org.example.log"),
            message(1, 6, 1, &[]),
        ]
    );
}

#[test]
fn changes_of_the_hosts_end_are_told() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::new(vec![port("a", &sink)], true);
    let client = rig.device.ports()[0].clone();
    client.set_connected(false);
    rig.say(0, control::event::PORT_READY, 1);
    let buffers = rig.listen(4);
    assert_eq!(rig.heard(2, &buffers), [message(0, 7, 1, b"a"), message(0, 6, 0, &[])]);
    client.set_connected(true);
    rig.serve(HOST);
    assert_eq!(rig.heard(2, &buffers[2..]), [message(0, 6, 1, &[])]);
}

#[test]
fn input_of_a_port_waits_until_the_guest_opens_it() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::new(vec![port("a", &sink)], true);
    rig.device.ports()[0].receive(b"early");
    let at = rig.drivers[0].add(&[], &[16])[0];
    rig.serve(0);
    assert!(rig.drivers[0].used().is_empty());
    rig.say(0, control::event::PORT_OPEN, 1);
    assert_eq!(rig.heard(0, &[at]), [b"early"]);
}

#[test]
fn a_driver_that_repeats_itself_makes_nothing_grow() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::new(vec![port("a", &sink)], true);
    for _ in 0..500 {
        rig.say(0, control::event::DEVICE_READY, 1);
        rig.say(0, control::event::PORT_READY, 1);
        rig.say(7, control::event::PORT_READY, 1);
        rig.say(0, 99, 99);
        rig.drivers[3].add(&[b"short"], &[]);
        rig.serve(3);
    }
    let buffers = rig.listen(16);
    assert_eq!(rig.heard(2, &buffers).len(), 3);
    assert!(!rig.drivers[0].signals.needs_reset());
}

#[test]
fn buffers_that_make_no_sense_break_the_device() {
    let broken = |rig: Rig| {
        let told = rig.drivers.iter().any(|driver| driver.signals.needs_reset());
        assert!(rig.worker.unwrap().broken && told);
    };
    let sink = Sink::with_room(usize::MAX);
    // No room for input.
    let mut rig = Rig::single(&sink);
    rig.device.ports()[0].set_open(true);
    rig.device.ports()[0].receive(b"x");
    rig.drivers[0].add(&[b"readable"], &[]);
    rig.serve(0);
    broken(rig);
    // No room for a message.
    let mut rig = Rig::new(vec![port("a", &sink)], true);
    rig.say(0, control::event::PORT_READY, 1);
    rig.drivers[2].add(&[], &[7]);
    rig.serve(2);
    broken(rig);
    // Outside memory, in the gap, across a region's end, in a loop.
    for (at, len, flags) in [
        (u64::MAX - 3, 8, 0),
        (MEMORY + 16, 8, 0),
        (MEMORY - 4, 8, 0),
        (HIGH + MEMORY - 4, 8, 0),
        (0x8000, 8, NEXT),
        (0x8000, 15, INDIRECT),
    ] {
        let mut rig = Rig::single(&sink);
        rig.drivers[1].descriptor(0, at, len, (flags, 0));
        rig.drivers[1].publish(0);
        rig.serve(1);
        broken(rig);
    }
    // A buffer that the device shall write is no output, but nothing is wrong with it.
    let mut rig = Rig::single(&sink);
    rig.drivers[1].descriptor(0, 0x8000, 8, (WRITE, 0));
    rig.drivers[1].publish(0);
    rig.serve(1);
    assert_eq!(rig.drivers[1].used(), [(0, 0)]);
    assert_eq!(sink.taken(), b"");
}

#[test]
fn a_flood_of_output_is_served_in_turns() {
    let sink = Sink::with_room(usize::MAX);
    let mut rig = Rig::single(&sink);
    for index in 0..16 {
        rig.drivers[1].descriptor(
            index,
            HIGH,
            MEMORY as u32,
            (if index < 15 { NEXT } else { 0 }, index + 1),
        );
    }
    rig.drivers[1].publish(0);
    rig.serve(1);
    assert_eq!(sink.taken().len() + PIECE, TURN);
    assert_eq!(rig.drivers[1].kick.read().unwrap(), 1);
    assert!(rig.drivers[1].used().is_empty());
}

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing happens");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_worker_on_a_thread_answers_kicks_and_the_host() {
    let sink = Sink::with_room(3);
    let device = Console::new(vec![port("", &sink)]).unwrap();
    let host = device.ports()[0].clone();
    let thread = Arc::new(IoThread::spawn("io").unwrap());
    let memory = memory();
    let mut drivers = [0, 0x2_0000].map(|shift| Driver::at(memory.clone(), 16, shift));
    let signals = drivers[0].signals.clone();
    let mut function = Function::new(device, vec![thread], memory, signals).unwrap();
    negotiate(&mut function, 0, &drivers);
    let at = drivers[0].add(&[], &[8])[0];
    host.receive(b"in");
    host.resize(80, 24);
    function.set_status(15);
    assert_eq!(function.status(), 15);
    wait_for(|| drivers[0].count.config.load(Ordering::Relaxed) > 0);
    wait_for(|| host.is_running() && drivers[0].bytes(at, 2) == b"in");
    drivers[1].add(&[b"output"], &[]);
    function.kick(1);
    wait_for(|| sink.bytes.lock().unwrap().len() == 3);
    sink.room.store(100, Ordering::Relaxed);
    host.output_drained();
    wait_for(|| sink.bytes.lock().unwrap().len() == 6);
    function.pause();
    assert!(!host.is_running());
    function.resume();
    drivers[1].add(&[b"!"], &[]);
    function.kick(1);
    wait_for(|| sink.bytes.lock().unwrap().ends_with(b"output!"));
    // A broken queue is told once and served no more.
    drivers[1].set_available(500);
    function.kick(1);
    wait_for(|| function.status() & status::NEEDS_RESET != 0);
    function.set_status(0);
    assert_eq!(function.status(), 0);
}
