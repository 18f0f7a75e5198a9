//! Disks: their files, and how they are presented.
use super::{Backend, DeviceError, Handle, limiter};
use crate::{
    board::{Board, BoardError},
    config::spec::BlockSpec,
};
use coracle_devices::virtio::{
    block::{self, Cache, Capacity, Engine, Options},
    disk::{
        Disk, DiskError,
        aggregate::{Aggregate, Layout},
        overlay::Overlay,
        raw::{Access, Raw},
    },
    io_thread::IoThread,
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// A disk whose files are open and locked.
pub(super) struct Block {
    disk: Arc<Disk>,
    options: Options,
    /// A slow disk delays nothing but itself, and each queue is served beside the others.
    threads: Vec<Arc<IoThread>>,
    /// Of the device in the present machine.
    capacity: Arc<Mutex<Option<Capacity>>>,
}

impl Block {
    pub(super) fn open(spec: &BlockSpec) -> Result<Self, DeviceError> {
        let disk = open(spec).map_err(|source| DeviceError::Disk {
            id: spec.id.clone(),
            source,
        })?;
        let options = Options {
            id: spec.id.clone(),
            cache: if spec.writeback {
                Cache::Writeback
            } else {
                Cache::Unsafe
            },
            engine: if spec.uring { Engine::Async } else { Engine::Sync },
            queues: spec.queues,
            discard: spec.discard,
            limiter: limiter(&spec.limits),
        };
        let threads = (0..spec.queues)
            .map(|queue| IoThread::spawn(&format!("blk{queue} {}", spec.id)).map(Arc::new))
            .collect::<io::Result<_>>()
            .map_err(BoardError::Event)?;
        Ok(Self {
            disk: Arc::new(disk),
            options,
            threads,
            capacity: Arc::default(),
        })
    }
}

impl Backend for Block {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let id = &self.options.id;
        let device = block::Block::new(self.disk.clone(), self.options.clone())
            .map_err(|source| DeviceError::Drive { id: id.clone(), source })?;
        *self.capacity.lock().unwrap_or_else(PoisonError::into_inner) = Some(device.capacity());
        Ok(board.virtio(&format!("drive {id}"), device, self.threads.clone())?)
    }

    fn handle(&self) -> Option<Handle> {
        Some(Handle::Disk(self.options.id.clone(), self.capacity.clone()))
    }
}

fn open(spec: &BlockSpec) -> Result<Disk, DiskError> {
    let access = Access {
        read_only: spec.read_only || spec.overlay.is_some(),
        direct: spec.direct,
    };
    let opened = spec.paths.iter().map(|path| Raw::open(path, access));
    let mut members = opened.collect::<Result<Vec<_>, _>>()?;
    let disk = if members.len() > 1 {
        let layout = spec.stripe.map_or(Layout::Concatenated, Layout::Striped);
        Disk::Aggregate(Aggregate::new(members, layout)?)
    } else {
        // A spec has at least one path.
        members
            .pop()
            .map(Disk::Raw)
            .ok_or_else(|| DiskError::Empty(spec.id.clone().into()))?
    };
    match &spec.overlay {
        None => Ok(disk),
        Some(path) => Overlay::open(path, disk, spec.direct, spec.writeback).map(Disk::Overlay),
    }
}
