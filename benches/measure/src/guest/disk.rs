//! Reads and writes of the first disk. Each goes to the device: none is served from the guest's memory.
#![allow(unsafe_code, reason = "io_uring reads into memory that it is told the address of")]
use super::{steps::Steps, wait_for};
use crate::Outcome;
use io_uring::{IoUring, opcode, types::Fd};
use rustix::{
    fs::{Mode, OFlags, open},
    io::{pread, pwrite},
};
use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::AsRawFd,
};

const DISK: &str = "/dev/vda";
const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
const DEPTH: usize = 32;

/// Operations of one pass, of 1 MiB and of 4 KiB.
const LARGE: u64 = 64;
const SMALL: u64 = 2000;

pub(crate) fn work() -> Outcome<()> {
    wait_for(DISK)?;
    let mut file = File::from(open(DISK, OFlags::RDWR | OFlags::DIRECT, Mode::empty())?);
    let size = file.seek(SeekFrom::End(0))?;
    let mut memory = Aligned::new(MIB);
    let steps = Steps::begin()?;
    let at = |index: u64| (index * MIB as u64) % (size - size % MIB as u64).max(1);
    steps.twice("seq_read", (LARGE, MIB as u64), || {
        (0..LARGE).try_for_each(|index| whole(pread(&file, &mut *memory.bytes(), at(index))?, MIB))
    })?;
    let mut places = Places::new(size);
    let small = (SMALL, BLOCK as u64);
    steps.twice("rand_read", small, || {
        let block = memory.bytes().get_mut(..BLOCK).ok_or("no memory")?;
        (0..SMALL).try_for_each(|_| whole(pread(&file, &mut *block, places.next())?, BLOCK))
    })?;
    let mut ring = IoUring::new(DEPTH as u32)?;
    steps.twice("rand_read_32", small, || {
        deep(&mut ring, &file, memory.bytes(), &mut places)
    })?;
    steps.twice("seq_write", (LARGE, MIB as u64), || {
        (0..LARGE).try_for_each(|index| whole(pwrite(&file, memory.bytes(), at(index))?, MIB))
    })
}

/// An error unless all of it was moved.
fn whole(count: usize, size: usize) -> Outcome<()> {
    if count == size {
        return Ok(());
    }
    Err(format!("moved {count} of {size} bytes").into())
}

/// Random reads with [`DEPTH`] of them under way as long as there are more: each that ends makes room for the next.
fn deep(ring: &mut IoUring, file: &File, memory: &mut [u8], places: &mut Places) -> Outcome<()> {
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    let (mut begun, mut done) = (0, 0);
    while done < SMALL {
        while let (true, Some(slot)) = (begun < SMALL, idle.pop()) {
            let block = memory.get_mut(slot * BLOCK..(slot + 1) * BLOCK).ok_or("no memory")?;
            let read = opcode::Read::new(Fd(file.as_raw_fd()), block.as_mut_ptr(), BLOCK as u32)
                .offset(places.next())
                .build()
                .user_data(slot as u64);
            // SAFETY: the block lies in `memory`, which this function borrows until all reads are done, and it belongs
            // to this read alone until then: its slot is not idle.
            unsafe { ring.submission().push(&read) }?;
            begun += 1;
        }
        ring.submit_and_wait(1)?;
        for end in ring.completion() {
            let count = usize::try_from(end.result()).map_err(|_| io::Error::from_raw_os_error(-end.result()))?;
            whole(count, BLOCK)?;
            idle.push(usize::try_from(end.user_data())?);
            done += 1;
        }
    }
    Ok(())
}

/// Memory as reads past the cache need it, touched.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    size: usize,
}

impl Aligned {
    fn new(size: usize) -> Self {
        let memory = vec![1; size + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start, size }
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.start..self.start + self.size)
            .unwrap_or_default()
    }
}

/// Random blocks of a disk, always the same ones.
struct Places {
    state: u64,
    blocks: u64,
}

impl Places {
    fn new(size: u64) -> Self {
        Self {
            state: 88_172_645_463_325_252,
            blocks: (size / BLOCK as u64).max(1),
        }
    }

    /// The offset of the next one. Marsaglia's xorshift.
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % self.blocks * BLOCK as u64
    }
}
