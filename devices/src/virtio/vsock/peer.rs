//! A program on the host with whom the device has to do: its socket, and how far the two have come. It lives on the
//! worker's thread and never blocks there.
use super::{
    connect_line::ConnectLine,
    connection::Connection,
    gather::{Gather, Received},
    packet::Shutdown,
};
use crate::virtio::{chain::Chain, memory::Buffers};
use rustix::net::{RecvFlags, SendFlags, Shutdown as How, recv, send, shutdown};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// A program on the host.
#[derive(Debug)]
pub struct Peer {
    /// What it has to do with the guest.
    pub stage: Stage,
    /// `None` when the host's side is closed.
    pub socket: Option<OwnedFd>,
    /// Whether there may be something to read. The socket's events come once for each change.
    pub readable: bool,
    /// Whether the program sends no more than what is there.
    pub ending: bool,
    /// Whether the program has closed its end.
    pub hung_up: bool,
    /// Bytes of the guest that the socket has not taken yet; at most the connection's window.
    pub backlog: Backlog,
}

/// What a program on the host has to do with the guest.
#[derive(Debug)]
pub enum Stage {
    /// It says which port it wants.
    Line(ConnectLine),
    /// It has, or asks for, a connection.
    Linked(Link),
    /// The connection is over, and the program reads what is left of it.
    Draining,
}

/// A connection, and how it is served.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// Until when a refusal is no answer.
    pub patience: Option<Instant>,
    /// The guest has refused and shall be asked again.
    pub retry: bool,
    /// The program waits for the line that says that it is connected.
    pub expects_answer: bool,
    /// Receive buffers that the next read shall fill.
    pub batch: usize,
    /// The guest has no room, and is asked about it when that lasts: how often that was.
    pub stalled: Option<u32>,
    /// The socket knows that the guest sends no more.
    pub ended: bool,
}

impl Link {
    /// A new connection.
    pub fn new(connection: Connection, expects_answer: bool, patience: Option<Instant>) -> Self {
        Self {
            connection,
            patience,
            retry: false,
            expects_answer,
            batch: 1,
            stalled: None,
            ended: false,
        }
    }
}

impl Peer {
    /// A peer behind a socket that does not block.
    pub fn new(socket: OwnedFd, stage: Stage) -> Self {
        Self {
            stage,
            socket: Some(socket),
            readable: false,
            ending: false,
            hung_up: false,
            backlog: Backlog::default(),
        }
    }

    /// Its connection, if it has one.
    pub fn link(&mut self) -> Option<&mut Link> {
        match &mut self.stage {
            Stage::Linked(link) => Some(link),
            _ => None,
        }
    }

    fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Looks at what has come without taking it.
    pub fn peek(&self, to: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.socket()?, to, RecvFlags::PEEK)?.0)
    }

    /// Takes what was looked at.
    pub fn take(&self, to: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.socket()?, to, RecvFlags::empty())?.0)
    }

    /// Tells the program a line. It fits into a socket that nothing was sent to yet.
    pub fn tell(&self, line: &str) -> bool {
        let sent = self
            .socket()
            .and_then(|to| Ok(send(to, line.as_bytes(), SendFlags::NOSIGNAL)?));
        sent.is_ok_and(|n| n == line.len())
    }

    /// Reads once into the buffers of `gather`.
    pub fn receive(&self, gather: &mut Gather) -> io::Result<Received> {
        gather.receive(self.socket()?)
    }

    /// Writes up to `len` bytes of a packet to the socket; what it does not take waits in the backlog. Gives the bytes that
    /// have gone.
    pub fn write(&mut self, packet: &mut Chain, len: usize, gather: &mut Gather) -> io::Result<usize> {
        let mut gone = 0;
        if self.backlog.is_empty() {
            gather.clear();
            let want = gather.add(&packet.readable, 0, len);
            gone = match gather.send(self.socket()?) {
                Ok(n) => n,
                Err(error) if is_transient(&error) => 0,
                Err(error) => return Err(error),
            };
            if gone == want && want == len {
                return Ok(gone);
            }
            packet.readable.skip(gone);
        }
        self.backlog.add(&mut packet.readable, len - gone);
        Ok(gone)
    }

    /// Writes what waits; gives the bytes that have gone.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut gone = 0;
        while !self.backlog.is_empty() {
            match send(self.socket()?, self.backlog.bytes(), SendFlags::NOSIGNAL) {
                Ok(0) => break,
                Ok(n) => {
                    self.backlog.consume(n);
                    gone += n;
                }
                Err(error) if is_transient(&error.into()) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(gone)
    }

    /// Once all that the guest has sent is with the program: tells it that no more comes.
    pub fn pass_end_on(&mut self) {
        let (socket, empty) = (self.socket.as_ref(), self.backlog.is_empty());
        if let Stage::Linked(link) = &mut self.stage
            && let Some(socket) = socket
        {
            let Shutdown { send, receive } = link.connection.guest_shutdown();
            if send && empty && !link.ended {
                link.ended = true;
                // The program may be gone already.
                let _ = shutdown(socket, How::Write);
            }
            if receive {
                let _ = shutdown(socket, How::Read);
            }
        }
    }
}

/// Whether the same call may succeed later.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Bytes that wait for a socket, in their order.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    gone: usize,
}

impl Backlog {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    /// Takes up to `len` bytes of a packet, which credit bounds.
    fn add(&mut self, from: &mut Buffers, len: usize) {
        let len = len.min(from.len());
        // What has gone is dropped when it is most of the room, so each byte moves at most once more.
        if self.gone > self.bytes.len() / 2 {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        let end = self.bytes.len();
        self.bytes.resize(end + len, 0);
        // Cannot fail: `len` is at most what there is.
        let _ = from.read(self.bytes.get_mut(end..).unwrap_or_default());
    }

    fn consume(&mut self, n: usize) {
        self.gone += n;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Forgets what waits; gives how much it was.
    pub fn discard(&mut self) -> usize {
        let waiting = self.bytes().len();
        *self = Self::default();
        waiting
    }
}
