#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
//! The card with a driver's rings on one side and a socket, in place of a TAP, on the other.
use super::{
    super::{
        Setup,
        io_thread::{IoThread, Running},
        queue::Queue,
        testing::{Driver, memory},
    },
    wire::{Framing, Wire},
    *,
};
use std::{
    fs::File,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};
use tap::Tap;

mod hostile;
mod limits;
mod wires;

const ALL: u64 = u64::MAX;
const PLAIN: u64 = 1 << feature::CTRL_VQ | 1 << feature::CTRL_RX;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;
/// Bytes that a driver gives for one small packet.
const ROOM: usize = 1526;

/// A card that runs, its driver, and the other end of its cable.
struct Bench {
    receive: Driver,
    transmit: Driver,
    control: Driver,
    net: Net,
    link: Link,
    workers: Vec<Running<NetWorker>>,
    thread: IoThread,
    features: u64,
}

fn patiently(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    let body = (0..).map(|i: usize| (i as u8).wrapping_mul(13).wrapping_add(seed));
    MAC.into_iter().chain(body).take(len).collect()
}

/// A frame behind an empty header.
fn packet(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER][..], frame].concat()
}

fn socket_pair() -> (UnixDatagram, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).unwrap();
    }
    (ours, theirs)
}

impl Bench {
    /// A card on a socket that stands for a TAP, and the socket's other end.
    fn new(features: u64) -> (Self, UnixDatagram) {
        let (ours, theirs) = socket_pair();
        let tap = Tap::from(File::from(OwnedFd::from(ours)));
        (Self::on(Port::Tap(Arc::new(tap)), features), theirs)
    }

    fn on(port: Port, features: u64) -> Self {
        Self::limited(port, features, NetLimits::default())
    }

    fn limited(port: Port, features: u64, limits: NetLimits) -> Self {
        let memory = memory();
        let link = Link::default();
        let settings = NetSettings {
            mac: Some(MAC),
            ..NetSettings::default()
        };
        let mut bench = Self {
            receive: Driver::at(memory.clone(), 64, 0),
            transmit: Driver::at(memory.clone(), 64, 0x80000),
            control: Driver::at(memory, 4, 0x78000),
            net: Net::new(vec![port], settings, &link).with_limits(limits),
            link,
            workers: Vec::new(),
            thread: IoThread::spawn("test").unwrap(),
            features,
        };
        bench.features &= bench.net.features();
        bench.start();
        bench
    }

    fn start(&mut self) {
        let setup = Setup {
            memory: self.receive.memory.clone(),
            features: self.features,
            signals: self.receive.signals.clone(),
            rings: vec![self.receive.ring(0), self.transmit.ring(1), self.control.ring(2)],
        };
        for worker in self.net.start(setup).unwrap() {
            self.workers.push(self.thread.run(worker).unwrap());
        }
    }

    /// Takes the queues home, from where the next start goes on.
    fn stop(&mut self) -> Vec<(u16, Queue)> {
        let home = self.workers.drain(..).map(|worker| worker.recall().unwrap()).collect();
        let mut queues: Vec<_> = self.net.stop(home).into_iter().map(Ring::stop).collect();
        queues.sort_by_key(|(index, _)| *index);
        for (driver, queue) in [&mut self.receive, &mut self.transmit, &mut self.control]
            .into_iter()
            .zip(&queues)
        {
            driver.queue = queue.1.clone();
        }
        queues
    }

    fn send(&mut self, parts: &[&[u8]]) {
        self.transmit.add(parts, &[]);
        self.transmit.kick.write(1).unwrap();
    }

    /// Gives room for packets; the addresses.
    fn give(&mut self, rooms: usize) -> Vec<u64> {
        let all = (0..rooms).map(|_| self.receive.add(&[], &[ROOM])[0]).collect();
        self.receive.kick.write(1).unwrap();
        all
    }

    /// Waits for `count` used buffers; their lengths.
    fn received(&mut self, count: usize) -> Vec<u32> {
        let mut all = Vec::new();
        patiently("no packet is received", || {
            all.extend(self.receive.used().into_iter().map(|(_, len)| len));
            all.len() >= count
        });
        all
    }

    fn command(&mut self, parts: &[&[u8]]) -> u8 {
        let at = self.control.add(parts, &[1])[parts.len()];
        self.control.kick.write(1).unwrap();
        let mut used = Vec::new();
        patiently("a command is not obeyed", || {
            used = self.control.used();
            !used.is_empty()
        });
        self.control.bytes(at, 1)[0]
    }
}

/// One message that the other end gets.
fn arrival(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let mut len = None;
    patiently("nothing arrives", || {
        len = socket.recv(&mut bytes).ok();
        len.is_some()
    });
    bytes.truncate(len.unwrap());
    bytes
}

#[test]
fn the_driver_is_told_what_the_operator_said() {
    let settings = NetSettings {
        mac: Some(MAC),
        mtu: Some(9000),
        offloads: false,
    };
    let (ours, _theirs) = socket_pair();
    let port = Port::Tap(Arc::new(Tap::from(File::from(OwnedFd::from(ours)))));
    let net = Net::new(vec![port.clone(), port.clone()], settings, &Link::default());
    let mut bytes = [0; config::SIZE];
    net.config().read(0, &mut bytes);
    assert_eq!(bytes, [2, 0, 0, 0, 0, 1, 1, 0, 2, 0, 0x28, 0x23]);
    assert_eq!(net.queue_sizes(), [256, 256, 256, 256, 64]);
    let has = |net: &Net, bit: u32| net.features() & 1 << bit != 0;
    assert!(
        [feature::MAC, feature::MTU, feature::MQ, feature::STATUS]
            .iter()
            .all(|bit| has(&net, *bit))
    );
    assert!(!feature::OFFLOADS.iter().any(|bit| has(&net, *bit)));
    let net = Net::new(vec![port], NetSettings::default(), &Link::default());
    assert!(
        ![feature::MAC, feature::MTU, feature::MQ]
            .iter()
            .any(|bit| has(&net, *bit))
    );
    assert!(feature::OFFLOADS.iter().all(|bit| has(&net, *bit)));
}

#[test]
fn packets_go_out_whole_and_their_buffers_come_back() {
    let (mut bench, far) = Bench::new(ALL);
    let frame = frame(1000, 1);
    bench.send(&[&[0; HEADER], &frame[..14], &frame[14..]]);
    assert_eq!(arrival(&far), packet(&frame));
    let large = packet(&vec![7; 60_000]);
    bench.send(&[&large]);
    assert_eq!(arrival(&far), large);
    let mut used = Vec::new();
    patiently("buffers do not come back", || {
        used.extend(bench.transmit.used());
        used.len() == 2
    });
    assert_eq!(used, [(0, 0), (3, 0)]);
}

#[test]
fn packets_that_wait_for_room_are_received_when_the_driver_gives_it() {
    for features in [ALL, PLAIN] {
        let (mut bench, far) = Bench::new(features);
        for seed in 0..5 {
            far.send(&packet(&frame(100 + usize::from(seed), seed))).unwrap();
        }
        thread::sleep(Duration::from_millis(20));
        assert_eq!(bench.receive.used(), []);
        // Room for the largest packet, whatever that is.
        let at = bench.give(48);
        assert_eq!(bench.received(5), [112, 113, 114, 115, 116], "{features:#x}");
        for (seed, at) in (0..5).zip(at) {
            let mut expected = packet(&frame(100 + usize::from(seed), seed));
            expected[NUM_BUFFERS] = 1;
            assert_eq!(bench.receive.bytes(at, expected.len()), expected);
        }
        far.send(&packet(&frame(60, 9))).unwrap();
        assert_eq!(bench.received(1), [72]);
    }
}

#[test]
fn a_large_packet_takes_several_buffers_at_once() {
    let (mut bench, far) = Bench::new(ALL);
    let at = bench.give(60);
    let large = packet(&frame(5000, 1));
    far.send(&large).unwrap();
    far.send(&packet(&frame(50, 2))).unwrap();
    assert_eq!(bench.received(5), [1526, 1526, 1526, 434, 62]);
    let mut bytes: Vec<u8> = at[..4].iter().flat_map(|at| bench.receive.bytes(*at, ROOM)).collect();
    bytes.truncate(large.len());
    assert_eq!(bytes[NUM_BUFFERS..HEADER], [4, 0]);
    bytes[NUM_BUFFERS] = 0;
    assert_eq!(bytes, large);
    assert_eq!(bench.receive.bytes(at[4] + NUM_BUFFERS as u64, 2), [1, 0]);
}

#[test]
fn a_packet_that_is_too_large_is_lost_alone() {
    let (mut bench, far) = Bench::new(PLAIN);
    let at = bench.give(2);
    for len in [1515, 1600, 60_000] {
        far.send(&packet(&frame(len, 1))).unwrap();
    }
    far.send(&packet(&frame(1514, 2))).unwrap();
    assert_eq!(bench.received(1), [1526]);
    assert_eq!(bench.receive.bytes(at[0] + HEADER as u64, 1514), frame(1514, 2));
}

#[test]
fn a_small_ring_receives_what_fits() {
    let (mut bench, far) = Bench::new(ALL);
    // A quarter of the ring, far from the largest packet.
    bench.give(16);
    far.send(&packet(&frame(60_000, 1))).unwrap();
    far.send(&packet(&frame(3000, 2))).unwrap();
    assert_eq!(bench.received(2), [1526, 1486]);
}

#[test]
fn filters_hold_from_the_command_on() {
    let (mut bench, far) = Bench::new(ALL);
    bench.give(60);
    let mut foreign = frame(60, 1);
    foreign[5] = 9;
    far.send(&packet(&foreign)).unwrap();
    assert_eq!(bench.received(1), [72]);
    assert_eq!(bench.command(&[&[0, 0], &[0]]), 0);
    far.send(&packet(&foreign)).unwrap();
    far.send(&packet(&frame(61, 1))).unwrap();
    assert_eq!(bench.received(1), [73]);
    assert_eq!(bench.command(&[&[1, 1], &foreign[..6]]), 0);
    far.send(&packet(&foreign)).unwrap();
    assert_eq!(bench.received(1), [72]);
    // A pause keeps what a reset forgets.
    bench.stop();
    assert_eq!(bench.net.config.get::<6>(config::MAC), foreign[..6]);
    bench.net.reset();
    bench.start();
    assert_eq!(bench.net.config.get(config::MAC), MAC);
    assert!(bench.net.shared.filter().promiscuous);
}

#[test]
fn without_a_link_nothing_passes_and_the_driver_knows() {
    let (mut bench, far) = Bench::new(ALL);
    bench.give(60);
    bench.link.set(false);
    assert_eq!(bench.net.config.get::<2>(config::STATUS), [0, 0]);
    bench.send(&[&packet(&frame(60, 1))]);
    far.send(&packet(&frame(60, 2))).unwrap();
    patiently("the buffer does not come back", || !bench.transmit.used().is_empty());
    thread::sleep(Duration::from_millis(20));
    bench.link.set_carrier(false);
    bench.link.set(true);
    assert!(!bench.link.is_up());
    bench.link.set_carrier(true);
    assert_eq!(bench.net.config.get::<2>(config::STATUS), [1, 0]);
    bench.send(&[&packet(&frame(61, 1))]);
    far.send(&packet(&frame(61, 2))).unwrap();
    assert_eq!(arrival(&far), packet(&frame(61, 1)));
    assert_eq!(bench.received(1), [73]);
}

#[test]
fn a_pause_loses_no_buffer_and_no_packet() {
    let (mut bench, far) = Bench::new(ALL);
    bench.give(50);
    far.send(&packet(&frame(60, 1))).unwrap();
    bench.received(1);
    let queues = bench.stop();
    // All but the used one are available again, although they were in hand.
    assert_eq!((queues[0].1.next_available, queues[0].1.next_used), (1, 1));
    far.send(&packet(&frame(61, 2))).unwrap();
    bench.start();
    assert_eq!(bench.received(1), [73]);
}

#[test]
fn a_batch_of_packets_is_one_interrupt() {
    let (mut bench, far) = Bench::new(ALL);
    let count = bench.receive.count.clone();
    for seed in 0..40 {
        far.send(&packet(&frame(60, seed))).unwrap();
    }
    bench.give(60);
    bench.received(40);
    patiently("no interrupt", || count.used.load(Ordering::Relaxed) > 0);
    // The first round takes one, to see whether more come.
    assert!(count.used.load(Ordering::Relaxed) <= 12, "{count:?}");
}
