//! An eventfd that wakes a thread out of `poll`.
#![allow(unsafe_code, reason = "lends the descriptor of an EventFd, whose crate has no AsFd")]
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A counter that is readable while it is not zero.
pub(crate) struct Wake(EventFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?))
    }

    /// Makes it readable. A full counter is readable already.
    pub(crate) fn signal(&self) {
        if let Err(error) = self.0.write(1)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::error!("cannot wake a thread: {error}");
        }
    }

    /// Makes it unreadable until the next signal.
    pub(crate) fn clear(&self) {
        // Nothing to read is what was wanted.
        let _ = self.0.read();
    }

    /// Another handle on the same counter, for a device.
    pub(crate) fn event(&self) -> io::Result<EventFd> {
        self.0.try_clone()
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
