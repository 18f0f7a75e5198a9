//! A disk that is a file or a block device, byte for byte.
//!
//! With direct I/O, buffers that the storage would refuse go through an aligned one of ours.
#![allow(unsafe_code, reason = "two ioctls of block devices that no crate wraps")]
use super::{
    DiskError, SECTOR,
    lock::{lock, unlock},
};
use crate::virtio::memory::Buffers;
use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags, fallocate, ioctl_blksszget, statx};
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// How a file is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// Nothing is written, and others may read as well.
    pub read_only: bool,
    /// Past the host's page cache.
    pub direct: bool,
}

/// What direct I/O asks for, in bytes, powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of buffers in memory.
    memory: u64,
    /// Of offsets in the file, and of lengths.
    offset: u64,
}

/// A file or a block device.
#[derive(Debug)]
pub struct Raw {
    file: File,
    path: PathBuf,
    is_device: bool,
    access: Access,
    /// `None` without direct I/O.
    alignment: Option<Alignment>,
    len: AtomicU64,
}

impl Drop for Raw {
    /// The kernel closes a file that io_uring has used a little later than asked to, and a lock lasts until then.
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

/// The size of our aligned buffer; longer requests go through it in pieces.
const BOUNCE: u64 = 256 << 10;
/// The coarsest alignment that storage asks for.
const COARSEST: u64 = 64 << 10;

const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKZEROOUT: libc::Ioctl = 0x127f;

impl Raw {
    /// Opens and locks a file or block device that exists.
    ///
    /// # Errors
    /// It cannot be a disk, or not in this way.
    pub fn open(path: &Path, access: Access) -> Result<Self, DiskError> {
        let raw = Self::open_with(path, access, OpenOptions::new().read(true).write(!access.read_only))?;
        if raw.is_empty() {
            return Err(DiskError::Empty(path.to_owned()));
        }
        Ok(raw)
    }

    /// Opens and locks a file that is made if it does not exist, and may be empty.
    pub(super) fn open_or_create(path: &Path, direct: bool) -> Result<Self, DiskError> {
        let access = Access {
            read_only: false,
            direct,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        Self::open_with(path, access, &mut options)
    }

    fn open_with(path: &Path, access: Access, options: &mut OpenOptions) -> Result<Self, DiskError> {
        // A FIFO without a peer would keep us for ever.
        let mut flags = OFlags::NONBLOCK;
        flags.set(OFlags::DIRECT, access.direct);
        let wish = if access.read_only { "read" } else { "read and write" };
        let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
        let file = opened.map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) if access.direct => DiskError::NoDirect(path.to_owned()),
            _ => DiskError::Open {
                path: path.to_owned(),
                wish,
                source,
            },
        })?;
        let failed = |doing| {
            move |source| DiskError::Io {
                path: path.to_owned(),
                doing,
                source,
            }
        };
        let kind = file.metadata().map_err(failed("examine"))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind(path.to_owned()));
        }
        lock(&file, path, access.read_only)?;
        let mut raw = Self {
            file,
            path: path.to_owned(),
            is_device: kind.is_block_device(),
            access,
            alignment: None,
            len: AtomicU64::new(0),
        };
        if access.direct {
            raw.alignment = Some(
                raw.query_alignment()
                    .ok_or_else(|| DiskError::NoDirect(path.to_owned()))?,
            );
        }
        raw.refresh().map_err(failed("tell the length of"))?;
        Ok(raw)
    }

    /// What the storage says of direct I/O; `None` if it has none.
    fn query_alignment(&self) -> Option<Alignment> {
        if let Ok(all) = statx(&self.file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
            && all.stx_mask & StatxFlags::DIOALIGN.bits() != 0
        {
            let (memory, offset) = (u64::from(all.stx_dio_mem_align), u64::from(all.stx_dio_offset_align));
            let fine = |n: u64| n.is_power_of_two() && n <= COARSEST;
            return (fine(memory) && fine(offset)).then_some(Alignment {
                memory,
                offset: offset.max(SECTOR),
            });
        }
        if self.is_device
            && let Ok(size) = ioctl_blksszget(&self.file)
        {
            let size = u64::from(size);
            return Some(Alignment {
                memory: size,
                offset: size,
            });
        }
        self.probe_alignment()
    }

    /// Kernels before 6.1 say nothing: the smallest read that they accept tells. An empty file accepts any, so it gets the
    /// size of a page.
    fn probe_alignment(&self) -> Option<Alignment> {
        let whole = |size| Alignment {
            memory: size,
            offset: size,
        };
        if self.file.metadata().ok()?.len() < COARSEST {
            return Some(whole(4096));
        }
        let sizes = (9..=16).map(|shift| 1_u64 << shift);
        let mut memory = vec![0; 2 * COARSEST as usize];
        sizes.into_iter().map(whole).find(|alignment| {
            let size = alignment.offset;
            // Aligned to `size` and to nothing coarser.
            let skew = ((size + COARSEST - memory.as_ptr() as u64 % COARSEST) % COARSEST) as usize;
            let piece = memory.get_mut(skew..skew + size as usize);
            piece.is_some_and(|piece| self.file.read_at(piece, size).is_ok())
        })
    }

    /// The file, for engines that read and write it by themselves.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// See [`super::Disk::len`].
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// See [`super::Disk::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// See [`super::Disk::block_size`].
    pub fn block_size(&self) -> u32 {
        self.alignment.map_or(SECTOR, |alignment| alignment.offset) as u32
    }

    /// See [`super::Disk::is_read_only`].
    pub fn is_read_only(&self) -> bool {
        self.access.read_only
    }

    /// See [`super::Disk::refresh`]. What does not fill a block at the end is left out.
    ///
    /// # Errors
    /// The length cannot be told.
    pub fn refresh(&self) -> io::Result<u64> {
        // Works for block devices too; nothing else uses the file's own position.
        let end = (&self.file).seek(SeekFrom::End(0))?;
        let len = end - end % u64::from(self.block_size());
        self.len.store(len, Ordering::Relaxed);
        Ok(len)
    }

    /// Sets the length of a file of ours.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.refresh().map(drop)
    }

    /// Bytes that the file has, whether they fill a block or not.
    pub(super) fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether a system call takes these buffers as they are.
    pub fn takes(&self, buffers: &Buffers, offset: u64) -> bool {
        let Some(alignment) = self.alignment else { return true };
        let fits = |part: &libc::iovec| {
            (part.iov_base as u64).is_multiple_of(alignment.memory)
                && (part.iov_len as u64).is_multiple_of(alignment.offset)
        };
        offset.is_multiple_of(alignment.offset) && buffers.iovecs().iter().all(fits)
    }

    /// See [`super::Disk::read`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn read(&self, to: &mut Buffers, offset: u64) -> io::Result<()> {
        if self.takes(to, offset) {
            let wanted = to.len();
            return whole(to.fill_from(self.fd(), offset)?, wanted, io::ErrorKind::UnexpectedEof);
        }
        self.bounced(offset, to.len() as u64, |piece, at| {
            self.file.read_exact_at(piece.aligned, at)?;
            let taken = piece.aligned.get(piece.wanted).is_some_and(|bytes| to.write(bytes));
            taken.then_some(()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
        })
    }

    /// See [`super::Disk::write`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn write(&self, from: &mut Buffers, offset: u64) -> io::Result<()> {
        if self.takes(from, offset) {
            let wanted = from.len();
            return whole(from.drain_to(self.fd(), offset)?, wanted, io::ErrorKind::WriteZero);
        }
        self.whole_blocks(offset, from.len() as u64)?;
        self.bounced(offset, from.len() as u64, |piece, at| {
            let given = piece
                .aligned
                .get_mut(piece.wanted)
                .is_some_and(|bytes| from.read(bytes));
            given.then_some(()).ok_or(io::ErrorKind::InvalidInput)?;
            self.file.write_all_at(piece.aligned, at)
        })
    }

    /// See [`super::Disk::read_at`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        if self.alignment.is_none() {
            return self.file.read_exact_at(to, offset);
        }
        let mut rest = to;
        self.bounced(offset, rest.len() as u64, |piece, at| {
            self.file.read_exact_at(piece.aligned, at)?;
            let bytes = piece.aligned.get(piece.wanted).unwrap_or_default();
            let (now, later) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            now.copy_from_slice(bytes);
            rest = later;
            Ok(())
        })
    }

    /// Writes memory of ours.
    pub(super) fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        if self.alignment.is_none() {
            return self.file.write_all_at(from, offset);
        }
        self.whole_blocks(offset, from.len() as u64)?;
        let mut rest = from;
        self.bounced(offset, from.len() as u64, |piece, at| {
            let (now, later) = rest.split_at(piece.wanted.len());
            if let Some(to) = piece.aligned.get_mut(piece.wanted) {
                to.copy_from_slice(now);
            }
            rest = later;
            self.file.write_all_at(piece.aligned, at)
        })
    }

    /// Part of a block cannot be written past the page cache. Drivers that respect the block size never try.
    fn whole_blocks(&self, offset: u64, len: u64) -> io::Result<()> {
        let block = u64::from(self.block_size());
        let whole = offset.is_multiple_of(block) && len.is_multiple_of(block);
        whole
            .then_some(())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a write of a part of a block"))
    }

    /// Goes through a range of the file in aligned pieces: `transfer` gets each with the part of it that is wanted.
    fn bounced(
        &self,
        offset: u64,
        len: u64,
        mut transfer: impl FnMut(Piece<'_>, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(Alignment {
            memory: align,
            offset: block,
        }) = self.alignment
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let room = (end.next_multiple_of(block) - (offset - offset % block)).min(BOUNCE);
        let mut memory = vec![0; (room + align) as usize];
        let skew = (memory.as_ptr() as usize).wrapping_neg() % align as usize;
        let mut at = offset;
        while at < end {
            let base = at - at % block;
            let stop = end.min(base + room);
            let aligned = memory
                .get_mut(skew..skew + (stop.next_multiple_of(block) - base) as usize)
                .ok_or(io::ErrorKind::InvalidInput)?;
            let wanted = (at - base) as usize..(stop - base) as usize;
            transfer(Piece { aligned, wanted }, base)?;
            at = stop;
        }
        Ok(())
    }

    /// See [`super::Disk::sync`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn sync(&self) -> io::Result<()> {
        if self.access.read_only {
            Ok(())
        } else {
            self.file.sync_data()
        }
    }

    /// See [`super::Disk::discard`].
    ///
    /// # Errors
    /// What the storage says, unless it is that it cannot.
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let done = if self.is_device {
            self.range_ioctl(BLKDISCARD, &range)
        } else {
            self.allocate(FallocateFlags::PUNCH_HOLE, &range)
        };
        match done {
            // To keep the space is allowed.
            Err(error) if is_unsupported(&error) => Ok(()),
            other => other,
        }
    }

    /// See [`super::Disk::write_zeroes`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let quick = if self.is_device {
            self.range_ioctl(BLKZEROOUT, &range)
        } else if unmap {
            self.allocate(FallocateFlags::PUNCH_HOLE, &range)
        } else {
            self.allocate(FallocateFlags::ZERO_RANGE, &range)
        };
        match quick {
            Err(error) if is_unsupported(&error) => self.write_zeroes_slowly(range),
            other => other,
        }
    }

    fn write_zeroes_slowly(&self, range: Range<u64>) -> io::Result<()> {
        let zeroes = vec![0; BOUNCE.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            let now = (range.end - at).min(zeroes.len() as u64);
            self.write_at(zeroes.get(..now as usize).unwrap_or_default(), at)?;
            at += now;
        }
        Ok(())
    }

    fn allocate(&self, mode: FallocateFlags, range: &Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        loop {
            match fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, range.start, len) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map_err(Into::into),
            }
        }
    }

    fn range_ioctl(&self, request: libc::Ioctl, range: &Range<u64>) -> io::Result<()> {
        let argument = [range.start, range.end - range.start];
        // SAFETY: both ioctls read two 64-bit integers and touch no other memory; the descriptor is ours and open.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument.as_ptr()) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// A piece of an aligned buffer of ours.
struct Piece<'a> {
    aligned: &'a mut [u8],
    /// The bytes of it that the request is about.
    wanted: Range<usize>,
}

fn whole(done: usize, wanted: usize, otherwise: io::ErrorKind) -> io::Result<()> {
    if done == wanted { Ok(()) } else { Err(otherwise.into()) }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS)
    )
}

#[cfg(test)]
mod tests;
