//! Guest buffers of one packet or of several as one system call on a socket, so that no byte is copied on the way.
#![allow(unsafe_code, reason = "hands checked guest ranges to system calls on sockets")]
use super::super::memory::Buffers;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Parts that one system call takes (`IOV_MAX` of Linux).
const MAX_PARTS: usize = 1024;

/// Pieces of guest buffers, kept between calls for its room only.
#[derive(Debug, Default)]
pub struct Gather {
    parts: Vec<libc::iovec>,
}

// SAFETY: the parts are pieces of `Buffers`, which may move between threads for the same reason.
unsafe impl Send for Gather {}

/// What a read has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes; 0 is the end.
    pub bytes: usize,
    /// The kernel stopped early, where descriptors were attached: less than asked for does not mean that all is read.
    pub cut: bool,
}

impl Gather {
    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.parts.clear();
    }

    /// Adds up to `limit` bytes of `buffers` after the first `skip`; gives how many.
    pub fn add(&mut self, buffers: &Buffers, skip: usize, limit: usize) -> usize {
        let (mut skip, mut left) = (skip, limit);
        for part in buffers.iovecs() {
            if part.iov_len <= skip {
                skip -= part.iov_len;
                continue;
            }
            if left == 0 || self.parts.len() == MAX_PARTS {
                break;
            }
            let len = (part.iov_len - skip).min(left);
            // SAFETY: `skip` is within the part.
            let base = unsafe { part.iov_base.cast::<u8>().add(skip) };
            self.parts.push(libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            });
            left -= len;
            skip = 0;
        }
        limit - left
    }

    /// Reads once into the pieces.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        let mut message = self.message();
        // SAFETY: the message names this gather's parts, which point into guest memory. That stays mapped until the worker
        // that holds the buffers has gone home.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        Ok(Received {
            bytes: usize::try_from(n).map_err(|_| io::Error::last_os_error())?,
            cut: message.msg_flags & libc::MSG_CTRUNC != 0,
        })
    }

    /// Writes the pieces once, as far as the socket takes them.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let message = self.message();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as above.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn message(&mut self) -> libc::msghdr {
        libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.parts.as_mut_ptr(),
            msg_iovlen: self.parts.len(),
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        }
    }
}
