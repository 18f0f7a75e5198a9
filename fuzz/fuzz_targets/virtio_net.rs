//! A network card whose driver and whose network say what they like: packets, commands and rooms for packets that are
//! mostly right. Whatever comes, a reset brings the card back.
#![no_main]
use coracle_devices::{
    bus::BusDevice,
    irq::IrqLine,
    virtio::{
        Transport,
        function::Function,
        io_thread::IoThread,
        mmio::{MmioTransport, NOTIFY},
        net::{Net, NetSettings, link::Link, port::Port, tap::Tap, wire::Framing, wire::Wire},
        testing::{self, Driver, NEXT, WRITE},
    },
};
use libfuzzer_sys::fuzz_target;
use std::{
    fs::File,
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    sync::{Arc, OnceLock},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Entries of each queue.
const SIZE: u16 = 16;
/// Where buffers lie: past the tables of all queues.
const BUFFERS: u64 = 0x6_0000;

/// What the card is connected to, and the other end.
enum Far {
    Tap(UnixDatagram),
    Stream(UnixStream),
}

impl Far {
    fn new(stream: bool) -> (Port, Self) {
        if stream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let wire = Wire::new(Framing::Stream, Box::new(|_| ()));
            wire.connect(ours.into()).unwrap();
            (Port::Wire(Arc::new(wire)), Self::Stream(theirs))
        } else {
            let (ours, theirs) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.set_nonblocking(true).unwrap();
            let tap = Tap::from(File::from(OwnedFd::from(ours)));
            (Port::Tap(Arc::new(tap)), Self::Tap(theirs))
        }
    }

    /// Sends something to the card and takes what it has sent; what does not fit is lost.
    fn talk(&mut self, bytes: &[u8]) {
        use std::io::{Read, Write};
        let mut waste = [0; 4096];
        match self {
            Self::Tap(socket) => {
                let _ = socket.send(bytes);
                while socket.recv(&mut waste).is_ok() {}
            }
            Self::Stream(socket) => {
                let _ = socket.write(bytes);
                while socket.read(&mut waste).is_ok_and(|n| n > 0) {}
            }
        }
    }
}

/// One thread for all runs: the card leaves it when its transport is dropped.
fn thread() -> Arc<IoThread> {
    static THREAD: OnceLock<Arc<IoThread>> = OnceLock::new();
    THREAD
        .get_or_init(|| Arc::new(IoThread::spawn("fuzz").unwrap()))
        .clone()
}

fn write(card: &MmioTransport, at: u64, value: u32) {
    let _ = card.write(at, &value.to_le_bytes());
}

/// Starts the driver as it should be done.
fn start(card: &MmioTransport, drivers: &[Driver], features: u32) {
    write(card, 0x70, 0);
    for status in [1, 3] {
        write(card, 0x70, status);
    }
    for (page, features) in [(0, features), (1, 1)] {
        write(card, 0x14, page);
        let mut offered = [0; 4];
        card.read(0x10, &mut offered);
        write(card, 0x24, page);
        write(card, 0x20, u32::from_le_bytes(offered) & features);
    }
    write(card, 0x70, 11);
    for (index, driver) in (0..).zip(drivers) {
        let queue = &driver.queue;
        for (at, value) in [
            (0x30, index),
            (0x38, SIZE.into()),
            (0x80, queue.descriptors as u32),
            (0x90, queue.available as u32),
            (0xa0, queue.used as u32),
            (0x44, 1),
        ] {
            write(card, at, value);
        }
    }
    write(card, 0x70, 15);
}

fn drivers(memory: &GuestMemoryMmap) -> Vec<Driver> {
    (0..3)
        .map(|queue| Driver::at(memory.clone(), SIZE, queue * 0x1_0000))
        .collect()
}

fuzz_target!(|input: &[u8]| {
    let [flags, f0, f1, f2, rest @ ..] = input else { return };
    let memory = testing::memory();
    let (port, mut far) = Far::new(flags & 1 != 0);
    let link = Link::default();
    let settings = NetSettings {
        mac: (flags & 2 != 0).then_some([2, 0, 0, 0, 0, 1]),
        mtu: (flags & 4 != 0).then_some(9000),
        offloads: flags & 8 != 0,
    };
    let card = MmioTransport::new("fuzz", IrqLine::new().unwrap(), |signals| {
        Function::new(
            Net::new(vec![port], settings, &link),
            vec![thread()],
            memory.clone(),
            signals,
        )
    })
    .unwrap();
    let features = if flags & 16 == 0 {
        u32::MAX
    } else {
        u32::from_le_bytes([*f0, *f1, *f2, 0])
    };
    let mut all = drivers(&memory);
    start(&card, &all, features);
    let mut next = [0_u16; 3];
    for step in rest.chunks(12) {
        let [kind, queue, len, odd, content @ ..] = step else {
            break;
        };
        let index = usize::from(*queue) % 3;
        let entry = next[index] % SIZE;
        let at = BUFFERS + u64::from(*queue) * 1024;
        match kind % 16 {
            // A packet, room for one, or a command: two pieces, the second of which is the device's as it should be.
            0..10 => {
                memory.write_slice(content, GuestAddress(at)).unwrap();
                let first = if index == 0 { WRITE } else { 0 } | NEXT;
                let second = if index == 1 { 0 } else { WRITE };
                let length = if index == 2 {
                    content.len() as u32
                } else {
                    12 + u32::from(*len) * 16
                };
                let (first, target) = match odd {
                    0..4 => (first ^ u16::from(*odd), at),
                    4 => (first, u64::MAX - 8),
                    5 => (first, testing::MEMORY - 4),
                    6 => (first | 4, at),
                    _ => (first, at),
                };
                let driver = &mut all[index];
                driver.descriptor(entry, target, length, (first, (entry + 1) % SIZE));
                driver.descriptor((entry + 1) % SIZE, at + 0x2000, u32::from(*len) * 7 + 1, (second, 0));
                driver.publish(entry);
                next[index] = next[index].wrapping_add(2);
                write(&card, NOTIFY, index as u32);
            }
            10..12 => far.talk(&[content, &[*odd; 40], &vec![*len; usize::from(*len) * 64]].concat()),
            12 => link.set(odd & 1 != 0),
            13 => {
                card.pause();
                card.resume();
            }
            14 => memory
                .write_slice(content, GuestAddress(0x1000 + u64::from(*len) * 768))
                .unwrap(),
            _ => {
                all = drivers(&memory);
                next = [0; 3];
                start(&card, &all, features);
            }
        }
    }
    // Everything that was kicked is served before the queues come home.
    card.pause();
    card.resume();
    write(&card, 0x70, 0);
    let mut status = [1; 4];
    card.read(0x70, &mut status);
    assert_eq!(status, [0; 4], "a reset brings the card back");
});
