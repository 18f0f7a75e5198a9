//! A private network with one other VM: a socket at which the two meet, in any order and again after either has ended.
//!
//! A thread accepts or makes connections and gives them to the wire; it never touches a packet.
use super::NetError;
use crate::wake::Wake;
use coracle_devices::virtio::net::{
    link::Link,
    wire::{Framing, Wire},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

/// How long the connecting side waits before it tries again.
const RETRY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Bytes that a VM may send before the other has taken them; the kernel gives what it allows.
const BUFFER: usize = 4 << 20;

/// Meets the other VM until it is dropped.
pub(super) struct Peer {
    stop: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
    /// The socket that was made, to be removed.
    made: Option<PathBuf>,
}

/// What the thread has.
struct Meeting {
    name: String,
    wire: Arc<Wire>,
    stop: Arc<Wake>,
    lost: Arc<Wake>,
}

impl Peer {
    /// Listens at `path`, or connects to who does.
    pub(super) fn open(name: &str, path: &Path, listen: bool, link: &Link) -> Result<(Arc<Wire>, Self), NetError> {
        let (stop, lost) = (Arc::new(Wake::new()?), Arc::new(Wake::new()?));
        let (cable, gone) = (link.clone(), lost.clone());
        cable.set_carrier(false);
        let on_carrier = move |up| {
            cable.set_carrier(up);
            if !up {
                gone.signal();
            }
        };
        let wire = Arc::new(Wire::new(Framing::Messages, Box::new(on_carrier)));
        let meeting = Meeting {
            name: name.to_owned(),
            wire: wire.clone(),
            stop: stop.clone(),
            lost,
        };
        let (path, thread) = (path.to_owned(), thread::Builder::new().name(format!("link {name}")));
        let mut made = None;
        let thread = if listen {
            let listener = bind(&path)?;
            made = Some(path);
            thread.spawn(move || meeting.accept(&listener))
        } else {
            thread.spawn(move || meeting.connect(&path))
        };
        let thread = Some(thread?);
        Ok((wire, Self { stop, thread, made }))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.signal();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the thread that connects two VMs panicked");
        }
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_file(path)
        {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

impl Meeting {
    /// Gives every connection to the wire: the newest counts.
    fn accept(&self, listener: &OwnedFd) {
        loop {
            let mut fds = [
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::new(listener, PollFlags::IN),
            ];
            if let Err(error) = poll(&mut fds, None)
                && error != Errno::INTR
            {
                log::error!("{}: cannot wait for the other VM: {error}", self.name);
                return;
            }
            let [stop, _] = fds;
            if !stop.revents().is_empty() {
                return;
            }
            match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.give(socket),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    log::warn!("{}: cannot accept the other VM: {error}", self.name);
                    if self.stops(&self.stop, Some(&RETRY)) {
                        return;
                    }
                }
            }
        }
    }

    /// Connects, waits for the end of the connection, and connects again.
    fn connect(&self, path: &Path) {
        loop {
            self.lost.clear();
            match dial(path) {
                Ok(socket) => {
                    self.give(socket);
                    if self.stops(&self.lost, None) {
                        return;
                    }
                }
                Err(error) => log::debug!("{}: nobody listens at {}: {error}", self.name, path.display()),
            }
            if self.stops(&self.stop, Some(&RETRY)) {
                return;
            }
        }
    }

    fn give(&self, socket: OwnedFd) {
        // What it does not grant is its own default.
        let _ = net::sockopt::set_socket_send_buffer_size(&socket, BUFFER);
        match self.wire.connect(socket) {
            Ok(()) => log::info!("{}: the other VM is there", self.name),
            Err(error) => log::warn!("{}: cannot use the connection to the other VM: {error}", self.name),
        }
    }

    /// Waits for `other` or the end; whether it is the end.
    fn stops(&self, other: &Wake, limit: Option<&Timespec>) -> bool {
        let mut fds = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(other, PollFlags::IN),
        ];
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                log::error!("{}: cannot wait for the other VM: {error}", self.name);
                return true;
            }
        }
        let [stop, _] = fds;
        !stop.revents().is_empty()
    }
}

fn socket(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((socket, SocketAddrUnix::new(path)?))
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let (socket, address) = socket(path)?;
    net::connect(&socket, &address)?;
    Ok(socket)
}

/// A listening socket at `path`; one that a VM has left behind there is replaced.
fn bind(path: &Path) -> Result<OwnedFd, NetError> {
    let fail = |source| NetError::Listen {
        path: path.to_owned(),
        source,
    };
    let (socket, address) = socket(path).map_err(fail)?;
    let mut bound = net::bind(&socket, &address);
    if bound == Err(Errno::ADDRINUSE) {
        match dial(path).map_err(|error| error.raw_os_error()) {
            Err(Some(code)) if code == Errno::CONNREFUSED.raw_os_error() => {}
            _ => return Err(NetError::Taken(path.to_owned())),
        }
        fs::remove_file(path).map_err(fail)?;
        bound = net::bind(&socket, &address);
    }
    bound
        .and_then(|()| net::listen(&socket, 1))
        .map_err(|error| fail(error.into()))?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
