//! virtio-blk (Virtio 1.2 §5.2): a disk.
//!
//! The device owns nothing but how it presents a [`Disk`], which it shares with whoever opened that. Each queue has a
//! worker of its own, which runs on an I/O thread and either does requests one after the other ([`Engine::Sync`]) or hands
//! batches of them to io_uring ([`Engine::Async`]). A failed read or write is a status for the guest, never more.
use super::{
    Setup, VirtioDevice,
    config_space::ConfigSpace,
    disk::{Disk, SECTOR},
    queue::Ring,
};
use crate::rate_limiter::{Clock, RateLimiter, Throttle};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Instant,
};

pub mod request;
pub mod uring;
pub mod worker;

use request::{Target, WriteThrough};
use uring::Uring;
use worker::BlockWorker;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Buffers of a request: what a full indirect table of a queue's length holds beside header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// More queues than any guest has use for.
pub const MAX_QUEUES: u16 = 64;
/// Sectors of one discard or write-zeroes request, 2 GiB: bounds the time that a queue waits for it.
const MAX_RANGE_SECTORS: u32 = 4 << 20;
/// Ranges of one such request.
const MAX_RANGES: u32 = 32;
/// What pages of the host's cache, file systems and flash have in common.
const PHYSICAL_BLOCK: u32 = 4096;

/// Feature bit numbers (§5.2.3).
pub mod feature {
    /// The number of buffers of a request has a limit.
    pub const SEG_MAX: u32 = 2;
    /// Nothing can be written.
    pub const RO: u32 = 5;
    /// The block size is told.
    pub const BLK_SIZE: u32 = 6;
    /// The driver can flush.
    pub const FLUSH: u32 = 9;
    /// Alignment and preferred sizes are told.
    pub const TOPOLOGY: u32 = 10;
    /// The driver can turn the write cache on and off.
    pub const CONFIG_WCE: u32 = 11;
    /// Several queues.
    pub const MQ: u32 = 12;
    /// The driver can give blocks back.
    pub const DISCARD: u32 = 13;
    /// The driver can have blocks zeroed.
    pub const WRITE_ZEROES: u32 = 14;
}

/// Offsets in the configuration (§5.2.4).
mod field {
    pub(super) const CAPACITY: usize = 0;
    pub(super) const SEG_MAX: usize = 12;
    pub(super) const BLK_SIZE: usize = 20;
    pub(super) const PHYSICAL_BLOCK_EXP: usize = 24;
    pub(super) const MIN_IO_SIZE: usize = 26;
    pub(super) const WRITEBACK: usize = 32;
    pub(super) const NUM_QUEUES: usize = 34;
    pub(super) const MAX_DISCARD_SECTORS: usize = 36;
    pub(super) const MAX_DISCARD_SEG: usize = 40;
    pub(super) const DISCARD_SECTOR_ALIGNMENT: usize = 44;
    pub(super) const MAX_WRITE_ZEROES_SECTORS: usize = 48;
    pub(super) const MAX_WRITE_ZEROES_SEG: usize = 52;
    pub(super) const WRITE_ZEROES_MAY_UNMAP: usize = 56;
    pub(super) const END: usize = 60;
}

/// What a guest can expect of what it has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cache {
    /// Nothing is flushed; what the host has not written out is lost with it.
    #[default]
    Unsafe,
    /// Flushes reach the host's storage.
    Writeback,
}

/// How requests are carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// One after the other, by plain system calls.
    #[default]
    Sync,
    /// Many at once, by io_uring. Only for [`Disk::Raw`].
    Async,
}

/// How a disk is presented.
#[derive(Debug, Clone)]
pub struct Options {
    /// The serial number that the guest sees: the first 20 bytes of it.
    pub id: String,
    /// Flushes.
    pub cache: Cache,
    /// Requests.
    pub engine: Engine,
    /// Queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Whether blocks can be given back.
    pub discard: bool,
    /// Limits, shared by all queues and kept over restarts of the guest.
    pub limiter: Arc<Mutex<RateLimiter>>,
}

/// The device before, between and after drivers.
#[derive(Debug)]
pub struct Block {
    disk: Arc<Disk>,
    options: Options,
    sizes: Vec<u16>,
    config: Arc<ConfigSpace>,
    /// The idle rings of [`Engine::Async`], one per queue.
    urings: Vec<Uring>,
    clock: Clock,
}

impl Block {
    /// A device that presents `disk`.
    ///
    /// # Errors
    /// io_uring is wanted, but the host has none for us, or the disk is not raw.
    pub fn new(disk: Arc<Disk>, options: Options) -> io::Result<Self> {
        let queues = options.queues.clamp(1, MAX_QUEUES);
        let urings = match (options.engine, &*disk) {
            (Engine::Sync, _) => Vec::new(),
            (Engine::Async, Disk::Raw(raw)) => (0..queues)
                .map(|_| Uring::new(raw, QUEUE_SIZE))
                .collect::<io::Result<_>>()?,
            (Engine::Async, _) => return Err(io::Error::other("io_uring serves raw disks only; use Sync")),
        };
        Ok(Self {
            sizes: vec![QUEUE_SIZE; queues.into()],
            config: Arc::new(configuration(&disk, &options, queues)),
            disk,
            options,
            urings,
            clock: Instant::now,
        })
    }

    /// The device's capacity, for whoever changes it while the guest runs.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            disk: self.disk.clone(),
            config: self.config.clone(),
        }
    }

    fn target(&self, setup: &Setup) -> Target {
        let cached = self.options.cache == Cache::Writeback;
        // §5.2.6.2: the driver that cannot flush gets a disk without a volatile cache, unless the operator said otherwise.
        let write_through = match (cached, setup.has(feature::CONFIG_WCE), setup.has(feature::FLUSH)) {
            (false, ..) | (true, false, true) => WriteThrough::Never,
            (true, true, _) => WriteThrough::By(self.config.clone()),
            (true, false, false) => WriteThrough::Always,
        };
        Target {
            disk: self.disk.clone(),
            id: self.options.id.clone(),
            cached,
            write_through,
            discard: setup.has(feature::DISCARD),
            write_zeroes: setup.has(feature::WRITE_ZEROES),
            reported: false,
        }
    }
}

impl VirtioDevice for Block {
    type Worker = BlockWorker;
    const TYPE: u16 = 2;

    fn features(&self) -> u64 {
        let writable = !self.disk.is_read_only();
        let cached = self.options.cache == Cache::Writeback;
        [
            (feature::SEG_MAX, true),
            (feature::RO, !writable),
            (feature::BLK_SIZE, true),
            (feature::FLUSH, cached),
            (feature::TOPOLOGY, true),
            (feature::CONFIG_WCE, cached),
            (feature::MQ, self.sizes.len() > 1),
            (feature::DISCARD, writable && self.options.discard),
            (feature::WRITE_ZEROES, writable),
        ]
        .into_iter()
        .filter(|(_, offered)| *offered)
        .fold(0, |all, (bit, _)| all | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn start(&mut self, mut setup: Setup) -> io::Result<Vec<BlockWorker>> {
        let rings = std::mem::take(&mut setup.rings);
        rings
            .into_iter()
            .map(|ring| {
                let uring = match self.options.engine {
                    Engine::Sync => None,
                    Engine::Async => Some(self.urings.pop().ok_or_else(|| io::Error::other("io_uring was lost"))?),
                };
                let throttle = Throttle::new(&self.options.limiter, self.clock)?;
                Ok(BlockWorker::new(ring, self.target(&setup), throttle, uring))
            })
            .collect()
    }

    fn stop(&mut self, workers: Vec<BlockWorker>) -> Vec<Ring> {
        workers
            .into_iter()
            .map(|worker| {
                let (ring, uring) = worker.finish();
                self.urings.extend(uring);
                ring
            })
            .collect()
    }
}

/// Tells the guest when its disk has grown or shrunk.
#[derive(Debug, Clone)]
pub struct Capacity {
    disk: Arc<Disk>,
    config: Arc<ConfigSpace>,
}

impl Capacity {
    /// Looks at the disk's files again and shows the guest what there is. Gives the bytes.
    ///
    /// # Errors
    /// A length cannot be told; the guest sees the one before.
    pub fn refresh(&self) -> io::Result<u64> {
        let len = self.disk.refresh()?;
        let sectors = (len / SECTOR).to_le_bytes();
        if self.config.get(field::CAPACITY) != sectors {
            self.config.set(field::CAPACITY, &sectors);
        }
        Ok(len)
    }
}

fn configuration(disk: &Disk, options: &Options, queues: u16) -> ConfigSpace {
    let mut bytes = [0; field::END];
    let mut set = |at: usize, value: &[u8]| {
        if let Some(to) = bytes.get_mut(at..at + value.len()) {
            to.copy_from_slice(value);
        }
    };
    let block = disk.block_size();
    let per_physical = (PHYSICAL_BLOCK / block).max(1);
    set(field::CAPACITY, &(disk.len() / SECTOR).to_le_bytes());
    set(field::SEG_MAX, &SEG_MAX.to_le_bytes());
    set(field::BLK_SIZE, &block.to_le_bytes());
    set(field::PHYSICAL_BLOCK_EXP, &[per_physical.ilog2() as u8]);
    set(field::MIN_IO_SIZE, &(per_physical as u16).to_le_bytes());
    set(field::NUM_QUEUES, &queues.to_le_bytes());
    let alignment = PHYSICAL_BLOCK.max(block) / SECTOR as u32;
    set(field::MAX_DISCARD_SECTORS, &MAX_RANGE_SECTORS.to_le_bytes());
    set(field::MAX_DISCARD_SEG, &MAX_RANGES.to_le_bytes());
    set(field::DISCARD_SECTOR_ALIGNMENT, &alignment.to_le_bytes());
    set(field::MAX_WRITE_ZEROES_SECTORS, &MAX_RANGE_SECTORS.to_le_bytes());
    set(field::MAX_WRITE_ZEROES_SEG, &MAX_RANGES.to_le_bytes());
    set(field::WRITE_ZEROES_MAY_UNMAP, &[options.discard.into()]);
    let cached = options.cache == Cache::Writeback;
    set(field::WRITEBACK, &[cached.into()]);
    let writable = if cached {
        field::WRITEBACK..field::WRITEBACK + 1
    } else {
        0..0
    };
    ConfigSpace::new(bytes, writable)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
