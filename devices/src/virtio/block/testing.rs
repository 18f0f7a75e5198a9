//! A disk in a temporary file behind a mock driver.
use super::{Block, Cache, Engine, Options, worker::BlockWorker};
use crate::{
    rate_limiter::RateLimiter,
    virtio::{
        Setup, VirtioDevice,
        disk::{
            Disk,
            raw::{Access, Raw},
            testing::TempFile,
        },
        testing::Driver,
    },
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};
use vm_memory::{Bytes, GuestAddress};

/// All that a driver may accept.
pub(super) const ALL: u64 = u64::MAX;

/// What a test does not care about.
pub(super) fn options(engine: Engine) -> Options {
    Options {
        id: "a serial number of more than twenty bytes".to_owned(),
        cache: Cache::Writeback,
        engine,
        queues: 1,
        discard: true,
        limiter: Arc::new(Mutex::new(RateLimiter::default())),
    }
}

/// The file as a disk.
pub(super) fn raw(path: &Path, read_only: bool) -> Disk {
    let access = Access {
        read_only,
        direct: false,
    };
    Disk::Raw(Raw::open(path, access).unwrap())
}

/// A disk of a mebibyte, its driver, and the worker in between, which runs on the thread of the test.
pub(super) struct Bench {
    pub(super) file: TempFile,
    pub(super) device: Block,
    pub(super) driver: Driver,
    pub(super) worker: Option<BlockWorker>,
}

impl Bench {
    pub(super) fn new(engine: Engine) -> Self {
        Self::with(options(engine), false)
    }

    pub(super) fn with(options: Options, read_only: bool) -> Self {
        let file = TempFile::pattern(1 << 20, 0);
        let disk = raw(file.path(), read_only);
        Self::of(file, Block::new(Arc::new(disk), options).unwrap())
    }

    pub(super) fn of(file: TempFile, device: Block) -> Self {
        let mut bench = Self {
            file,
            device,
            driver: Driver::new(64),
            worker: None,
        };
        bench.start(ALL);
        bench
    }

    pub(super) fn start(&mut self, features: u64) {
        let setup = Setup {
            memory: self.driver.memory.clone(),
            features: features & self.device.features(),
            signals: self.driver.signals.clone(),
            rings: vec![self.driver.ring(0)],
        };
        self.worker = self.device.start(setup).unwrap().pop();
    }

    pub(super) fn stop(&mut self) {
        let home = self.device.stop(self.worker.take().into_iter().collect());
        for ring in home {
            self.driver.queue = ring.stop().1;
        }
    }

    /// Serves until nothing is in flight.
    pub(super) fn serve(&mut self) {
        self.worker.as_mut().unwrap().serve_all();
    }

    /// One request: its status and the bytes in its buffers.
    pub(super) fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
        let mut header = header(kind, sector);
        header.extend_from_slice(data);
        let at = self.driver.add(&[&header], &[room, 1]);
        let status = GuestAddress(at[2]);
        self.driver.memory.write_obj(0xff_u8, status).unwrap();
        self.serve();
        assert_eq!(self.driver.used().len(), 1);
        (self.driver.bytes(at[2], 1)[0], self.driver.bytes(at[1], room))
    }
}

pub(super) fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&sector.to_le_bytes());
    header
}
