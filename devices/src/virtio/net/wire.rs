//! A socket as the other end of the cable: one message for each frame, or a stream of frames.
//!
//! A wire outlives the sockets that come and go, and reboots of the guest. Its lock is taken by the worker of its pair of
//! queues and, for a moment, by whoever brings a new socket.
use super::{
    super::memory::Buffers,
    HEADER, MAX_FRAME,
    stream::{Incoming, Outgoing},
};
use crate::lock::lock;
use std::{
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use vmm_sys_util::eventfd::EventFd;

/// What became of a frame that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is gone, or lost, as happens in networks.
    Over,
    /// The port takes the rest when it becomes writable.
    Later,
}

/// How frames travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A message each, with its virtio header: between two cards, whose offloads stay end-to-end.
    Messages,
    /// A stream: four bytes of length, big endian, and the frame without a header, as QEMU and passt have it.
    Stream,
}

/// Called with whether there is something at the other end, when that changes; under the wire's lock, so that the last
/// word is true.
pub type OnCarrier = Box<dyn Fn(bool) + Send + Sync>;

/// A cable with sockets at its other end.
pub struct Wire {
    framing: Framing,
    on_carrier: OnCarrier,
    state: Mutex<State>,
    /// Whether a socket waits to be taken.
    offered: AtomicBool,
}

#[derive(Default)]
struct State {
    socket: Option<UnixStream>,
    /// Whether the other end of `socket` is known to be gone.
    lost: bool,
    next: Option<UnixStream>,
    wake: Option<Arc<EventFd>>,
    incoming: Incoming,
    outgoing: Outgoing,
}

impl State {
    /// The socket, unless its other end is gone.
    fn live(&self) -> Option<&UnixStream> {
        self.socket.as_ref().filter(|_| !self.lost)
    }
}

impl Wire {
    /// A cable with nothing at its other end.
    pub fn new(framing: Framing, on_carrier: OnCarrier) -> Self {
        Self {
            framing,
            on_carrier,
            state: Mutex::default(),
            offered: AtomicBool::new(false),
        }
    }

    /// How frames travel.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Puts a connected socket at the other end, in place of the one before.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn connect(&self, socket: OwnedFd) -> io::Result<()> {
        // The type only says that it is a Unix socket: nothing here depends on what kind.
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let mut state = self.lock();
        state.next = Some(socket);
        self.offered.store(true, Ordering::Release);
        (self.on_carrier)(true);
        if let Some(wake) = &state.wake {
            // A full counter wakes as well.
            let _ = wake.write(1);
        }
        Ok(())
    }

    /// From here on, a new socket signals `wake`.
    pub(super) fn attach(&self, wake: Option<Arc<EventFd>>) {
        self.lock().wake = wake;
    }

    /// Whether [`Wire::renew`] has something to do.
    pub(super) fn is_offered(&self) -> bool {
        self.offered.load(Ordering::Acquire)
    }

    /// Takes the socket that was offered last; the one before is closed, so nobody may watch it any more.
    pub(super) fn renew(&self) {
        let mut state = self.lock();
        self.offered.store(false, Ordering::Release);
        if let Some(next) = state.next.take() {
            let wake = state.wake.take();
            *state = State {
                socket: Some(next),
                wake,
                ..State::default()
            };
        }
    }

    pub(super) fn fd(&self) -> Option<RawFd> {
        self.lock().live().map(AsRawFd::as_raw_fd)
    }

    /// As [`super::port::Port::receive`].
    pub(super) fn receive(&self, room: &mut Buffers) -> io::Result<Option<usize>> {
        let mut state = self.lock();
        let State {
            socket: Some(socket),
            lost: false,
            incoming,
            ..
        } = &mut *state
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let result = match self.framing {
            Framing::Messages => match receive_message(socket.as_fd(), room) {
                Ok(Some(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
                result => result,
            },
            Framing::Stream => incoming.receive(socket, room),
        };
        if result.as_ref().is_err_and(is_lost) {
            state.lost = true;
            if state.next.is_none() {
                (self.on_carrier)(false);
            }
        }
        result
    }

    /// As [`super::port::Port::send`].
    pub(super) fn send(&self, frame: &mut Buffers) -> Sent {
        let mut state = self.lock();
        let State {
            socket: Some(socket),
            lost: false,
            outgoing,
            ..
        } = &mut *state
        else {
            return Sent::Over;
        };
        let result = match self.framing {
            Framing::Messages => frame.send_after(&[], socket.as_fd()).map(drop),
            Framing::Stream => outgoing.send(socket, frame),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
            // The reading side notices what has become of the socket.
            Ok(()) | Err(_) => Sent::Over,
        }
    }

    /// The chain of a frame that waits goes. `true` if a part of the frame is out already, so that it must not be sent
    /// again: the rest is kept here and goes out before the next.
    pub(super) fn finish(&self, frame: &mut Buffers) -> bool {
        self.lock().outgoing.finish(frame)
    }

    /// The room that a frame was being received into is gone, and the frame with it.
    pub(super) fn abandon(&self) {
        self.lock().incoming.abandon();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

fn is_lost(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Receives a frame that comes as one message. The kernel cuts what does not fit and does not say so, but a byte of our own
/// behind the room tells.
pub(super) fn receive_message(from: BorrowedFd<'_>, room: &mut Buffers) -> io::Result<Option<usize>> {
    let reach = room.reach();
    if reach >= HEADER + MAX_FRAME {
        return room.receive_from(from).map(Some);
    }
    let n = room.receive_before(&mut [0], reach, from)?;
    Ok((n <= reach).then_some(n))
}
