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

    /// What is left, piece by piece.
    pub fn parts(&self) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.iovecs().iter().map(|part| {
            // SAFETY: the part was an `Area` when it was added.
            unsafe { VolatileSlice::new(part.iov_base.cast(), part.iov_len) }
        })
    }

    /// Adds what is left of `other` behind these bytes; both then name the same guest memory.
    pub fn append(&mut self, other: &Self) {
        if self.front * 2 >= self.parts.len() {
            self.parts.drain(..self.front);
            self.front = 0;
        }
        self.parts.extend_from_slice(other.iovecs());
        self.len += other.len;
    }

    /// Bytes that [`Buffers::receive_before`] can read: those of the first parts, if there are very many.
    pub fn reach(&self) -> usize {
        match self.iovecs().get(..MAX_IOVECS as usize - 1) {
            Some(parts) => parts.iter().map(|part| part.iov_len).sum(),
            None => self.len,
        }
    }

    /// Fills `to` from `offset` on and consumes nothing. `false` if there are too few bytes.
    #[must_use]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> bool {
        let mut rest = to;
        self.visit(offset, rest.len(), |slice| {
            let n = slice.copy_to(rest);
            rest = std::mem::take(&mut rest).get_mut(n..).unwrap_or_default();
        })
    }

    /// Writes `from` at `offset` and consumes nothing. `false` if there is too little room.
    #[must_use]
    pub fn write_at(&self, offset: usize, from: &[u8]) -> bool {
        let mut rest = from;
        self.visit(offset, rest.len(), |slice| {
            slice.copy_from(rest.get(..slice.len()).unwrap_or_default());
            rest = rest.get(slice.len()..).unwrap_or_default();
        })
    }

    /// Shows `visitor` the pieces that hold `len` bytes from `offset` on, if there are so many.
    fn visit(&self, offset: usize, len: usize, mut visitor: impl FnMut(VolatileSlice<'_>)) -> bool {
        let (mut offset, mut len) = (offset, len);
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return false;
        }
        for part in self.parts() {
            if len == 0 {
                break;
            }
            if offset < part.len() {
                let n = len.min(part.len() - offset);
                let Ok(piece) = part.subslice(offset, n) else {
                    return false;
                };
                visitor(piece);
                len -= n;
            }
            offset = offset.saturating_sub(part.len());
        }
        len == 0
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
        let fd = file.as_raw_fd();
        self.transfer(offset, |parts, at| match parts {
            // SAFETY: the iovecs point to mapped guest memory, see `iovecs`.
            [part] => unsafe { libc::pread64(fd, part.iov_base, part.iov_len, at) },
            // SAFETY: as above.
            _ => unsafe { libc::preadv64(fd, parts.as_ptr(), count(parts), at) },
        })
    }

    /// Writes all that is left to a file at `offset`, and consumes it.
    pub fn drain_to(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let fd = file.as_raw_fd();
        self.transfer(offset, |parts, at| match parts {
            // SAFETY: as above.
            [part] => unsafe { libc::pwrite64(fd, part.iov_base, part.iov_len, at) },
            // SAFETY: as above.
            _ => unsafe { libc::pwritev64(fd, parts.as_ptr(), count(parts), at) },
        })
    }

    /// One `readv`, for sockets and TAP devices; consumes what was read.
    pub fn receive_from(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as above.
        let n = unsafe { libc::readv(file.as_raw_fd(), self.iovecs().as_ptr(), count(self.iovecs())) };
        self.consumed(n)
    }

    /// One `writev`, for sockets and TAP devices; consumes what was written.
    pub fn send_to(&mut self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as above.
        let n = unsafe { libc::writev(file.as_raw_fd(), self.iovecs().as_ptr(), count(self.iovecs())) };
        self.consumed(n)
    }

    /// One `sendmsg` of `prefix` and then all that is left, for sockets; a closed one is an error, never a signal. Consumes
    /// what was sent, and gives the bytes of both.
    pub fn send_after(&mut self, prefix: &[u8], socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut gathered = Vec::new();
        let parts = if prefix.is_empty() {
            self.iovecs()
        } else {
            gathered.reserve_exact(1 + self.iovecs().len());
            gathered.push(libc::iovec {
                iov_base: prefix.as_ptr().cast_mut().cast(),
                iov_len: prefix.len(),
            });
            gathered.extend_from_slice(self.iovecs());
            &gathered
        };
        // SAFETY: a message is integers and pointers, and all zeroes is the empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_ptr().cast_mut();
        message.msg_iovlen = parts.len().min(MAX_IOVECS as usize) as _;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the message's parts are `prefix` and mapped guest memory, see `iovecs`; none is written.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        self.skip(n.saturating_sub(prefix.len()));
        Ok(n)
    }

    /// One `readv` of `len` bytes, for which there is room, and then of `suffix`; consumes what was read of the former, and
    /// gives the bytes of both.
    pub fn receive_before(&mut self, suffix: &mut [u8], len: usize, file: BorrowedFd<'_>) -> io::Result<usize> {
        let mut parts = Vec::with_capacity(8);
        let mut rest = len.min(self.len);
        for part in self.iovecs().iter().take(MAX_IOVECS as usize - 1) {
            if rest == 0 {
                break;
            }
            let iov_len = part.iov_len.min(rest);
            parts.push(libc::iovec { iov_len, ..*part });
            rest -= iov_len;
        }
        if rest == 0 {
            parts.push(libc::iovec {
                iov_base: suffix.as_mut_ptr().cast(),
                iov_len: suffix.len(),
            });
        }
        // SAFETY: the parts are mapped guest memory, see `iovecs`, and `suffix`.
        let n = unsafe { libc::readv(file.as_raw_fd(), parts.as_ptr(), count(&parts)) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        self.skip(n.min(len));
        Ok(n)
    }

    fn consumed(&mut self, n: isize) -> io::Result<usize> {
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        self.skip(n);
        Ok(n)
    }

    /// Repeats a positioned system call until all is done or it makes no progress.
    fn transfer(&mut self, offset: u64, call: impl Fn(&[libc::iovec], i64) -> isize) -> io::Result<usize> {
        let mut done = 0;
        while !self.is_empty() {
            let at = offset
                .checked_add(done as u64)
                .and_then(|at| i64::try_from(at).ok())
                .ok_or(io::ErrorKind::InvalidInput)?;
            match self.consumed(call(self.iovecs(), at)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn front_slice(&self) -> Option<VolatileSlice<'_>> {
        self.parts().next()
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

/// How many of the parts one system call takes.
fn count(parts: &[libc::iovec]) -> libc::c_int {
    let all = parts.len().try_into();
    all.map_or(MAX_IOVECS, |n: libc::c_int| n.min(MAX_IOVECS))
}

/// `IOV_MAX` of Linux.
const MAX_IOVECS: libc::c_int = 1024;

static ZEROES: [u8; 4096] = [0; 4096];

#[cfg(test)]
mod tests;
