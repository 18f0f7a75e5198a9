//! A device's end of its interrupt line.
use std::{io, sync::Arc};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// An edge-triggered interrupt line: an eventfd that the board gives to KVM as an irqfd.
#[derive(Clone, Debug)]
pub struct IrqLine(Arc<EventFd>);

impl IrqLine {
    /// A line that nobody listens to yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Raises the interrupt once. A full counter already means "raised", so that is no error.
    pub fn raise(&self) {
        if let Err(error) = self.0.write(1)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::error!("cannot raise an interrupt: {error}");
        }
    }

    /// The eventfd, for `KVM_IRQFD` or for a test that waits for the interrupt.
    pub fn event(&self) -> &EventFd {
        &self.0
    }
}
