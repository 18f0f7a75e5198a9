//! The host's end of one port: a thread that moves bytes between the port and a stream, or the clients of a socket, one
//! after the other.
//!
//! Owns the descriptors. What the guest writes waits in a buffer of [`CAPACITY`] bytes, then in the guest. The thread waits
//! for descriptors only, and holds no lock while it does.
use super::Removed;
use crate::wake::Wake;
use coracle_devices::{serial::SerialOutput, virtio::console::Port};
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::isatty,
};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of the guest that wait for a slow reader.
const CAPACITY: usize = 64 << 10;
/// Bytes read at once, and written at once where `poll` promises room for so many.
const CHUNK: usize = 4096;
/// As above, to a terminal.
const TERMINAL_CHUNK: usize = 256;

/// What a port leads to.
pub(super) enum End {
    /// Descriptors that are there from the start.
    Streams {
        input: Option<File>,
        output: File,
        /// Only kept open.
        kept: Option<OwnedFd>,
    },
    /// A socket for clients.
    Socket { listener: UnixListener, path: Removed },
}

/// See the module. Dropping it ends the thread.
pub(super) struct Channel {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    port: Mutex<Weak<Port>>,
    pending: Mutex<VecDeque<u8>>,
    /// Somebody is at this end.
    connected: AtomicBool,
    wake: Wake,
    stop: Wake,
}

impl Channel {
    pub(super) fn spawn(name: &str, end: End) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            port: Mutex::default(),
            pending: Mutex::default(),
            connected: AtomicBool::new(matches!(end, End::Streams { .. })),
            wake: Wake::new()?,
            stop: Wake::new()?,
        });
        let worker = Mover::new(shared.clone(), end);
        let thread = thread::Builder::new().name("port".into()).spawn(move || worker.run())?;
        Ok(Self {
            name: name.to_owned(),
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the port's output goes.
    pub(super) fn output(&self) -> Arc<dyn SerialOutput> {
        self.shared.clone()
    }

    /// What the port writes when it takes input again.
    pub(super) fn input_wanted(&self) -> io::Result<EventFd> {
        self.shared.wake.event()
    }

    /// From here on bytes go to and come from `port`.
    pub(super) fn attach(&self, port: &Arc<Port>) {
        *self.shared.port.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(port);
        port.set_connected(self.shared.connected.load(Ordering::Acquire));
        self.shared.wake.signal();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.stop.signal();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the thread of port {:?} panicked", self.name);
        }
    }
}

impl Shared {
    fn port(&self) -> Option<Arc<Port>> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
        if let Some(port) = self.port() {
            port.set_connected(connected);
        }
    }
}

impl SerialOutput for Shared {
    fn put(&self, bytes: &[u8]) -> usize {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = bytes.len().min(CAPACITY - pending.len().min(CAPACITY));
        let was_empty = pending.is_empty();
        pending.extend(bytes.iter().take(taken));
        drop(pending);
        if was_empty && taken > 0 {
            self.wake.signal();
        }
        taken
    }

    fn has_room(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).len() < CAPACITY
    }
}

/// The thread's own.
struct Mover {
    shared: Arc<Shared>,
    socket: Option<(UnixListener, Removed)>,
    input: Option<File>,
    output: Option<File>,
    _kept: Option<OwnedFd>,
    /// Read, but not taken by the port yet.
    unread: Vec<u8>,
    chunk: usize,
}

impl Mover {
    fn new(shared: Arc<Shared>, end: End) -> Self {
        let (socket, input, output, kept) = match end {
            End::Streams { input, output, kept } => (None, input, Some(output), kept),
            End::Socket { listener, path } => (Some((listener, path)), None, None, None),
        };
        Self {
            shared,
            socket,
            chunk: if output.as_ref().is_some_and(isatty) {
                TERMINAL_CHUNK
            } else {
                CHUNK
            },
            input,
            output,
            _kept: kept,
            unread: Vec::new(),
        }
    }

    fn run(mut self) {
        loop {
            self.deliver();
            let Some((stop, client, readable, writable)) = self.wait() else {
                continue;
            };
            if stop {
                self.flush();
                return;
            }
            self.shared.wake.clear();
            if client {
                self.accept();
            }
            if readable {
                self.read();
            }
            if writable {
                self.flush();
            }
        }
    }

    /// Waits until there is something to do: whether to stop, to accept, to read, to write.
    fn wait(&self) -> Option<(bool, bool, bool, bool)> {
        let pending = !self
            .shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        let listener = self.socket.as_ref().map(|(listener, _)| listener);
        // A client that is gone is noticed by reading, so there must be room for what it may have sent.
        let input = self.input.as_ref().filter(|_| self.unread.is_empty());
        let output = self.output.as_ref().filter(|_| pending);
        let mut fds = vec![
            PollFd::new(&self.shared.stop, PollFlags::IN),
            PollFd::new(&self.shared.wake, PollFlags::IN),
        ];
        fds.extend(
            listener
                .filter(|_| self.output.is_none())
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        fds.extend(input.map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(output.map(|fd| PollFd::new(fd, PollFlags::OUT)));
        poll(&mut fds, None).ok()?;
        let mut came = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |there: bool| there && came.next().unwrap_or(false);
        let (stop, _) = (next(true), next(true));
        let client = next(listener.is_some() && self.output.is_none());
        Some((stop, client, next(input.is_some()), next(output.is_some())))
    }

    fn accept(&mut self) {
        let Some((listener, _)) = &self.socket else { return };
        let duplex = |stream: UnixStream| {
            stream.set_nonblocking(true)?;
            Ok((
                File::from(OwnedFd::from(stream.try_clone()?)),
                File::from(OwnedFd::from(stream)),
            ))
        };
        match listener.accept().and_then(|(stream, _)| duplex(stream)) {
            Ok((input, output)) => {
                (self.input, self.output) = (Some(input), Some(output));
                self.shared.set_connected(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => log::warn!("a port's client cannot be accepted: {error}"),
        }
    }

    /// The other side has gone.
    fn hang_up(&mut self) {
        self.input = None;
        if self.socket.is_some() {
            self.output = None;
            self.shared.set_connected(false);
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        let Some(input) = &mut self.input else { return };
        match input.read(&mut chunk) {
            Ok(n) if n > 0 => self.unread.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Ok(_) | Err(_) => self.hang_up(),
        }
    }

    fn flush(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, _) = pending.as_slices();
        let piece = front.get(..front.len().min(self.chunk)).unwrap_or_default().to_vec();
        drop(pending);
        // Only this thread takes bytes out, so those in front stay there.
        let written = match output.write(&piece) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => 0,
            Err(_) => return self.hang_up(),
        };
        pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let was_full = pending.len() >= CAPACITY;
        pending.drain(..written);
        drop(pending);
        if was_full && let Some(port) = self.shared.port() {
            port.output_drained();
        }
    }

    /// Gives the port what it takes.
    fn deliver(&mut self) {
        if !self.unread.is_empty()
            && let Some(port) = self.shared.port()
        {
            let taken = port.receive(&self.unread);
            self.unread.drain(..taken.min(self.unread.len()));
        }
    }
}

#[cfg(test)]
mod tests;
