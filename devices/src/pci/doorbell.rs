//! Doorbells: addresses at which a guest's write is an event, so that no vCPU leaves the kernel for it.
use super::Space;
use std::io;
use vmm_sys_util::eventfd::EventFd;

/// Connects addresses and events. A write to a connected address signals its event, whatever its value and width, and
/// never reaches the function.
pub trait Doorbells: Send + Sync {
    /// Connects; an address can have one event.
    fn connect(&self, space: Space, address: u64, event: &EventFd) -> io::Result<()>;
    /// Undoes [`Doorbells::connect`] with the same arguments.
    fn disconnect(&self, space: Space, address: u64, event: &EventFd);
}
