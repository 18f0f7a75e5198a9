//! What a virtual disk keeps its bytes in: files and block devices of the host, alone, put together, or under a layer of
//! changes.
//!
//! A disk is opened once for a VM and shared by the workers of its device; each call runs on the worker's thread and may
//! block for as long as the host's storage takes. Nothing here knows virtio's requests, and no length comes from a guest
//! without a check by the caller against [`Disk::len`].
use super::memory::Buffers;
use std::{io, ops::Range, path::PathBuf};

pub mod aggregate;
mod lock;
pub mod overlay;
pub mod raw;

use aggregate::Aggregate;
use overlay::Overlay;
use raw::Raw;

/// Bytes of a sector: the unit of a disk's capacity (Virtio 1.2 §5.2).
pub const SECTOR: u64 = 512;

/// Why a disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refuses the file.
    #[error("cannot open the disk {}; is the path right, and may this user {wish} it?", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// "read" or "read and write".
        wish: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder, a pipe or the like.
    #[error("{} is neither a file nor a block device, so it cannot be a disk; name an image or a device", .0.display())]
    Kind(PathBuf),
    /// Less than a sector.
    #[error("the disk {} has less than one sector; give it a size, for example with `truncate --size 1G`", .0.display())]
    Empty(PathBuf),
    /// Somebody else uses it in a way that does not go with ours.
    #[error(
        "the disk {} is in use by {by}, and {rule}; end that use, share it with is_read_only in all places, or make a copy",
        path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who holds a lock, as far as can be told.
        by: String,
        /// What we asked for and why it excludes the other.
        rule: &'static str,
    },
    /// The file system has no O_DIRECT for it.
    #[error(
        "the file system of {} does not support direct I/O; remove the direct option or move the disk",
        .0.display()
    )]
    NoDirect(PathBuf),
    /// The parts of a disk do not make one.
    #[error("{} holds less than one stripe; make it larger or stripe_kib smaller", .0.display())]
    Stripe(PathBuf),
    /// The overlay's file is something else.
    #[error("{} cannot be the overlay: {why}; name another file, which is made if it does not exist", path.display())]
    Overlay {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A system call on an open disk failed.
    #[error("cannot {doing} the disk {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// The bytes of one virtual disk.
#[derive(Debug)]
pub enum Disk {
    /// One file or block device.
    Raw(Raw),
    /// Several of them, presented as one.
    Aggregate(Aggregate),
    /// Changes over a base that stays as it is.
    Overlay(Overlay),
}

impl Disk {
    /// Bytes, a multiple of [`SECTOR`].
    pub fn len(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.len(),
            Self::Aggregate(aggregate) => aggregate.len(),
            Self::Overlay(overlay) => overlay.len(),
        }
    }

    /// Whether it has no bytes, which only a disk that shrank while open can be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes to which offsets and lengths of requests shall be aligned, at least [`SECTOR`].
    pub fn block_size(&self) -> u32 {
        match self {
            Self::Raw(raw) => raw.block_size(),
            Self::Aggregate(aggregate) => aggregate.block_size(),
            Self::Overlay(overlay) => overlay.block_size(),
        }
    }

    /// Whether it was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.is_read_only(),
            Self::Aggregate(aggregate) => aggregate.is_read_only(),
            Self::Overlay(_) => false,
        }
    }

    /// Looks at the files again: an image or a device may have grown. Gives the bytes that there are now.
    ///
    /// # Errors
    /// A length cannot be told, and stays what it was.
    pub fn refresh(&self) -> io::Result<u64> {
        match self {
            Self::Raw(raw) => raw.refresh(),
            Self::Aggregate(aggregate) => aggregate.refresh(),
            // Its length is the map's, which was made with it.
            Self::Overlay(overlay) => Ok(overlay.len()),
        }
    }

    /// Fills guest buffers from `offset` on.
    ///
    /// # Errors
    /// What the host's storage says; some buffers may be filled then.
    pub fn read(&self, to: &mut Buffers, offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.read(to, offset),
            Self::Aggregate(aggregate) => aggregate.read(to, offset),
            Self::Overlay(overlay) => overlay.read(to, offset),
        }
    }

    /// Writes guest buffers to `offset`.
    ///
    /// # Errors
    /// What the host's storage says; some bytes may be written then.
    pub fn write(&self, from: &mut Buffers, offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.write(from, offset),
            Self::Aggregate(aggregate) => aggregate.write(from, offset),
            Self::Overlay(overlay) => overlay.write(from, offset),
        }
    }

    /// As [`Disk::read`], into memory of ours.
    ///
    /// # Errors
    /// What the host's storage says.
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.read_at(to, offset),
            Self::Aggregate(aggregate) => aggregate.read_at(to, offset),
            Self::Overlay(overlay) => overlay.read_at(to, offset),
        }
    }

    /// Returns when everything that was written before is on stable storage.
    ///
    /// # Errors
    /// It may not be there.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.sync(),
            Self::Aggregate(aggregate) => aggregate.sync(),
            Self::Overlay(overlay) => overlay.sync(),
        }
    }

    /// Gives the space of a range back; what is read there afterwards is anything that was there, or zeroes.
    ///
    /// # Errors
    /// What the host's storage says.
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.discard(range),
            Self::Aggregate(aggregate) => aggregate.discard(range),
            Self::Overlay(overlay) => overlay.discard(range),
        }
    }

    /// Makes a range read as zeroes, and gives its space back if `unmap` and the storage can.
    ///
    /// # Errors
    /// What the host's storage says.
    pub fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.write_zeroes(range, unmap),
            Self::Aggregate(aggregate) => aggregate.write_zeroes(range, unmap),
            Self::Overlay(overlay) => overlay.write_zeroes(range, unmap),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
