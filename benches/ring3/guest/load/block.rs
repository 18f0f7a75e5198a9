//! A disk (§5.2): reads or writes of whole requests at random places.
//!
//! Each sector of the disk begins with its own number, which what is read is checked by and what is written keeps true.
use super::{BUFFERS, Load, RINGS, drive};
use crate::{
    Failure,
    device::{Device, INDIRECT},
    order::{Order, Report},
    queue::{self, Descriptor, NEXT, SIZE, WRITE},
};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

const SECTOR: u64 = 512;
const WORDS: u64 = SECTOR / 8;
const CAPACITY: u64 = 0;
const IN: u32 = 0;
const OUT: u32 = 1;
const OK: u8 = 0;
const PENDING: u8 = 0xff;

/// What a request has beside its data.
#[repr(C, align(64))]
struct Frame {
    kind: AtomicU32,
    reserved: AtomicU32,
    sector: AtomicU64,
    status: AtomicU8,
    /// Header, data, status.
    table: [Descriptor; 3],
}

static FRAMES: [Frame; SIZE] = [const {
    Frame {
        kind: AtomicU32::new(0),
        reserved: AtomicU32::new(0),
        sector: AtomicU64::new(0),
        status: AtomicU8::new(0),
        table: [const { Descriptor::NONE }; 3],
    }
}; SIZE];

struct Disk {
    /// Places for a request.
    places: u64,
    sectors: u64,
    write: bool,
    random: u64,
}

pub fn run(device: &mut Device, order: &Order, features: u64) -> Result<Report, Failure> {
    device.negotiate(features | INDIRECT)?;
    if !device.has(INDIRECT) {
        return Err("the disk takes no indirect descriptors");
    }
    if order.bytes % SECTOR != 0 {
        return Err("a disk takes whole sectors of 512 bytes");
    }
    let mut disk = Disk {
        places: device.config(CAPACITY) * SECTOR / order.bytes,
        sectors: order.bytes / SECTOR,
        write: order.write,
        random: 1,
    };
    if disk.places == 0 {
        return Err("the disk is smaller than a request");
    }
    let mut queue = device.queue(0, &RINGS[0])?;
    for slot in 0..order.depth as usize {
        disk.prepare(slot, order.bytes, queue.descriptor(slot));
    }
    device.start()?;
    drive(device, &mut queue, &mut disk, order)
}

impl Disk {
    fn prepare(&self, slot: usize, bytes: u64, head: &Descriptor) {
        let (frame, buffer) = (&FRAMES[slot], &BUFFERS[slot]);
        buffer.touch(bytes);
        let (kind, direction) = if self.write { (OUT, 0) } else { (IN, WRITE) };
        frame.kind.store(kind, Ordering::Relaxed);
        frame.reserved.store(0, Ordering::Relaxed);
        frame.table[0].set(frame.kind.as_ptr().addr() as u64, 16, NEXT, 1);
        frame.table[1].set(buffer.at(), bytes, NEXT | direction, 2);
        frame.table[2].set(frame.status.as_ptr().addr() as u64, 1, WRITE, 0);
        let table = frame.table.as_ptr().addr() as u64;
        head.set(table, size_of_val(&frame.table) as u64, queue::INDIRECT, 0);
    }

    /// The next of a sequence of numbers without an order (Marsaglia's xorshift).
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Load for Disk {
    fn ask(&mut self, slot: usize, _: u64) {
        let frame = &FRAMES[slot];
        let sector = self.next() % self.places * self.sectors;
        frame.sector.store(sector, Ordering::Relaxed);
        frame.status.store(PENDING, Ordering::Relaxed);
        if self.write {
            for index in 0..self.sectors {
                let word = BUFFERS[slot].word((index * WORDS) as usize);
                word.store(sector + index, Ordering::Relaxed);
            }
        }
    }

    fn check(&self, slot: usize, written: u32) -> Result<(), Failure> {
        let frame = &FRAMES[slot];
        if frame.status.load(Ordering::Relaxed) != OK {
            return Err("the disk answers with an error");
        }
        if self.write {
            return Ok(());
        }
        let last = self.sectors - 1;
        let number = BUFFERS[slot].word((last * WORDS) as usize).load(Ordering::Relaxed);
        if u64::from(written) != self.sectors * SECTOR + 1 || number != frame.sector.load(Ordering::Relaxed) + last {
            return Err("the disk answers with other bytes than those asked for");
        }
        Ok(())
    }
}
