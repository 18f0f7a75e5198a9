//! Guest memory as devices see it: checked once, then plain host memory.
//!
//! Owns no mapping: whoever builds the machine keeps guest memory mapped until every worker is home. A guest may write to
//! its memory at any moment, so everything here goes through vm-memory's volatile copies, and a value is read once.
#![allow(unsafe_code, reason = "turns checked guest ranges into iovecs for system calls")]
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// A range of guest memory that lies in one region, as a host address.
#[derive(Debug)]
pub(super) struct Area {
    base: *mut u8,
    len: usize,
}

// SAFETY: an area is plain shared memory; all access is volatile, as it is for the guest's own CPUs.
unsafe impl Send for Area {}

impl Area {
    /// The area of `len` bytes at `at`, if one region holds them all.
    pub(super) fn new(memory: &GuestMemoryMmap, at: u64, len: usize) -> Option<Self> {
        let slice = memory.get_slice(GuestAddress(at), len).ok()?;
        Some(Self {
            base: slice.ptr_guard_mut().as_ptr(),
            len,
        })
    }

    /// The bytes, for vm-memory's checked accesses.
    pub(super) fn bytes(&self) -> VolatileSlice<'_> {
        // SAFETY: `new` has checked that guest memory holds these bytes, and it stays mapped while workers run.
        unsafe { VolatileSlice::new(self.base, self.len) }
    }
}

/// A run of guest buffers, consumed from its front.
#[derive(Debug, Default)]
pub struct Buffers {
    parts: Vec<libc::iovec>,
    /// The first part that has bytes left.
    front: usize,
    len: usize,
}

// SAFETY: as for `Area`.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Adds the guest's bytes at `at`. `None` if no region holds them all.
    pub(crate) fn add(&mut self, memory: &GuestMemoryMmap, at: u64, len: u32) -> Option<()> {
        if len == 0 {
            return Some(());
        }
        let area = Area::new(memory, at, len as usize)?;
        self.len += area.len;
        self.parts.push(libc::iovec {
            iov_base: area.base.cast(),
            iov_len: area.len,
        });
        Some(())
    }

    /// Forgets all parts but keeps the room for them.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        (self.front, self.len) = (0, 0);
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left, for a system call. They point into guest memory, which stays mapped until the worker that holds this
    /// chain has gone home.
    pub fn iovecs(&self) -> &[libc::iovec] {
        self.parts.get(self.front..).unwrap_or_default()
    }

    /// Fills `to` from the front. `false`, and nothing is consumed, if too little is left.
    #[must_use]
    pub fn read(&mut self, to: &mut [u8]) -> bool {
        if to.len() > self.len {
            return false;
        }
        let mut rest = to;
        while !rest.is_empty() {
            let Some(front) = self.front_slice() else { return false };
            let n = front.copy_to(rest);
            rest = rest.get_mut(n..).unwrap_or_default();
            self.skip(n);
        }
        true
    }

    /// Writes `from` to the front. `false`, and nothing is written, if too little room is left.
    #[must_use]
    pub fn write(&mut self, from: &[u8]) -> bool {
        if from.len() > self.len {
            return false;
        }
        let mut rest = from;
        while !rest.is_empty() {
            let Some(front) = self.front_slice() else { return false };
            let n = front.len().min(rest.len());
            front.copy_from(rest.get(..n).unwrap_or_default());
            rest = rest.get(n..).unwrap_or_default();
            self.skip(n);
        }
        true
    }

    /// Drops up to `n` bytes from the front.
    pub fn skip(&mut self, n: usize) {
        let mut n = n.min(self.len);
        self.len -= n;
        while let Some(part) = self.parts.get_mut(self.front) {
            if n < part.iov_len {
                // SAFETY: `n` is within the part.
                part.iov_base = unsafe { part.iov_base.cast::<u8>().add(n) }.cast();
                part.iov_len -= n;
                return;
            }
            n -= part.iov_len;
            self.front += 1;
        }
    }

    /// Splits the last byte off, without allocating; `None` if nothing is left.
    pub fn split_last_byte(&mut self) -> Option<LastByte> {
        if self.is_empty() {
            return None;
        }
        let last = self.parts.last_mut()?;
        last.iov_len -= 1;
        // SAFETY: the byte is the part's last, which is not empty: empty parts are not added, and consumed ones are no more
        // than all but the last.
        let base = unsafe { last.iov_base.cast::<u8>().add(last.iov_len) };
        if last.iov_len == 0 {
            self.parts.pop();
        }
        self.len -= 1;
        Some(LastByte(Area { base, len: 1 }))
    }

    /// Splits the last `n` bytes off; `None` if there are fewer.
    pub fn split_last(&mut self, n: usize) -> Option<Self> {
        let keep = self.len.checked_sub(n)?;
        self.split_at(keep)
    }

    /// Keeps `keep` bytes and gives the rest; `None` if there are fewer.
    pub fn split_at(&mut self, keep: usize) -> Option<Self> {
        let rest = self.len.checked_sub(keep)?;
        let mut before = keep;
        let mut at = self.front;
        while let Some(part) = self.parts.get(at)
            && before >= part.iov_len
        {
            before -= part.iov_len;
            at += 1;
        }
        let mut parts = self.parts.split_off(at.min(self.parts.len()));
        if before > 0
            && let Some(first) = parts.first_mut()
        {
            self.parts.push(libc::iovec {
                iov_base: first.iov_base,
                iov_len: before,
            });
            // SAFETY: `before` is less than the part's length.
            first.iov_base = unsafe { first.iov_base.cast::<u8>().add(before) }.cast();
            first.iov_len -= before;
        }
        self.len = keep;
        Some(Self {
            parts,
            front: 0,
            len: rest,
        })
    }

    /// Fills all that is left with zeroes.
    pub fn zero(&mut self) {
        while let Some(front) = self.front_slice() {
            let n = front.len();
            for offset in (0..n).step_by(ZEROES.len()) {
                let len = ZEROES.len().min(n - offset);
                if let (Ok(piece), Some(zeroes)) = (front.subslice(offset, len), ZEROES.get(..len)) {
                    piece.copy_from(zeroes);
                }
            }
            self.skip(n);
        }
    }

    /// Reads from a file at `offset` into all that is left, and consumes what was read. Less than everything means that
    /// the file has ended.
    pub fn fill_from(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        self.transfer(offset, |iov, count, at| {
            // SAFETY: the iovecs point to mapped guest memory, see `iovecs`.
            unsafe { libc::preadv64(file.as_raw_fd(), iov, count, at) }
        })
    }

    /// Writes all that is left to a file at `offset`, and consumes it.
    pub fn drain_to(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        self.transfer(offset, |iov, count, at| {
            // SAFETY: as above.
            unsafe { libc::pwritev64(file.as_raw_fd(), iov, count, at) }
        })
    }

    /// One `readv`, for sockets and TAP devices; consumes what was read.
    pub fn receive_from(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as above.
        let n = unsafe { libc::readv(file.as_raw_fd(), self.iovecs().as_ptr(), self.count()) };
        self.consumed(n)
    }

    /// One `writev`, for sockets and TAP devices; consumes what was written.
    pub fn send_to(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as above.
        let n = unsafe { libc::writev(file.as_raw_fd(), self.iovecs().as_ptr(), self.count()) };
        self.consumed(n)
    }

    /// Parts that one system call takes.
    fn count(&self) -> libc::c_int {
        self.iovecs()
            .len()
            .try_into()
            .map_or(MAX_IOVECS, |n: libc::c_int| n.min(MAX_IOVECS))
    }

    fn consumed(&mut self, n: isize) -> io::Result<usize> {
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        self.skip(n);
        Ok(n)
    }

    /// Repeats a positioned system call until all is done or it makes no progress.
    fn transfer(
        &mut self,
        offset: u64,
        call: impl Fn(*const libc::iovec, libc::c_int, i64) -> isize,
    ) -> io::Result<usize> {
        let mut done = 0;
        while !self.is_empty() {
            let at = offset
                .checked_add(done as u64)
                .and_then(|at| i64::try_from(at).ok())
                .ok_or(io::ErrorKind::InvalidInput)?;
            match self.consumed(call(self.iovecs().as_ptr(), self.count(), at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn front_slice(&self) -> Option<VolatileSlice<'_>> {
        let part = self.parts.get(self.front)?;
        // SAFETY: the part was an `Area` when it was added.
        Some(unsafe { VolatileSlice::new(part.iov_base.cast(), part.iov_len) })
    }
}

/// The byte that a chain ends with: where many devices put the status of a request.
#[derive(Debug)]
pub struct LastByte(Area);

impl LastByte {
    /// Writes it.
    pub fn set(&self, value: u8) {
        self.0.bytes().copy_from(&[value]);
    }
}

/// `IOV_MAX` of Linux.
const MAX_IOVECS: libc::c_int = 1024;

static ZEROES: [u8; 4096] = [0; 4096];

#[cfg(test)]
mod tests;
