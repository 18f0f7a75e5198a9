//! The other end of a card's cable. Clones are the same port. Nothing here blocks.
use super::{
    super::memory::Buffers,
    tap::Tap,
    wire::{Framing, Sent, Wire, receive_message},
};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};
use vmm_sys_util::eventfd::EventFd;

/// Where the packets of one pair of queues come from and go to.
#[derive(Debug, Clone)]
pub enum Port {
    /// A queue of a TAP interface.
    Tap(Arc<Tap>),
    /// A socket.
    Wire(Arc<Wire>),
}

impl Port {
    /// Whether packets may cross it without checksums and larger than the MTU.
    pub(super) fn has_offloads(&self) -> bool {
        match self {
            Self::Tap(_) => true,
            Self::Wire(wire) => wire.framing() == Framing::Messages,
        }
    }

    /// Whether the headers that come from it are another guest's and have to be checked.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::Wire(wire) if wire.framing() == Framing::Messages)
    }

    /// The descriptor to watch, if there is an other end.
    pub(super) fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Tap(tap) => Some(tap.fd().as_raw_fd()),
            Self::Wire(wire) => wire.fd(),
        }
    }

    /// From here on, a change of the descriptor signals `wake`.
    pub(super) fn notify(&self, wake: Option<Arc<EventFd>>) {
        if let Self::Wire(wire) = self {
            wire.attach(wake);
        }
    }

    /// Whether [`Port::renew`] has something to do.
    pub(super) fn is_offered(&self) -> bool {
        matches!(self, Self::Wire(wire) if wire.is_offered())
    }

    /// Takes the new descriptor and closes the old one, which nobody may watch any more.
    pub(super) fn renew(&self) {
        if let Self::Wire(wire) = self {
            wire.renew();
        }
    }

    /// Fills the front of `room` with a frame and its header, consumes them, and gives their bytes; `None` if a frame was
    /// lost for lack of room.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; others if the port is not usable now.
    pub(super) fn receive(&self, room: &mut Buffers) -> io::Result<Option<usize>> {
        match self {
            Self::Tap(tap) => receive_message(tap.fd(), room),
            Self::Wire(wire) => wire.receive(room),
        }
    }

    /// The room is gone into which a frame may be on its way.
    pub(super) fn abandon(&self) {
        if let Self::Wire(wire) = self {
            wire.abandon();
        }
    }

    /// Sends what is left of a frame and its header.
    pub(super) fn send(&self, frame: &mut Buffers) -> Sent {
        match self {
            Self::Tap(tap) => match frame.send_to(tap.fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
                // An interface that is down, short of memory, or that does not like the packet: a packet is lost.
                Ok(_) | Err(_) => Sent::Over,
            },
            Self::Wire(wire) => wire.send(frame),
        }
    }

    /// The chain of a frame goes that waits to be sent; `true` if it must not be sent again.
    pub(super) fn finish(&self, frame: &mut Buffers) -> bool {
        match self {
            Self::Tap(_) => false,
            Self::Wire(wire) => wire.finish(frame),
        }
    }

    /// Says which packets the other end may leave unfinished: `TUN_F_*` bits.
    ///
    /// # Errors
    /// The host does not know some of them.
    pub(super) fn set_offloads(&self, bits: u32) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.set_offloads(bits),
            // The card at the other end cannot be told; its packets are checked one by one.
            Self::Wire(_) => Ok(()),
        }
    }

    /// Has the host use this queue of several, or not.
    ///
    /// # Errors
    /// The interface is gone.
    pub(super) fn attach(&self, wanted: bool) -> io::Result<()> {
        match self {
            Self::Tap(tap) => tap.attach(wanted),
            Self::Wire(_) => Ok(()),
        }
    }
}
