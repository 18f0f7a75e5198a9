//! The exchange between the guest's ports and programs on the host: who is connected to whom, and what goes where.
//!
//! Runs on the worker's thread, and outlives a pause in the device. It is told of packets, of events of sockets and of the
//! time; it never waits. Packets of the guest are handled here, those to the guest in [`deliver`], and how connections
//! begin and what happens when time is over in [`calls`].
use super::{
    connection::{Ports, Verdict},
    gather::Gather,
    packet::{HEADER, HOST_CID, Header, Op, STREAM, Shutdown},
    peer::{Peer, Stage},
    table::{Table, Token},
};
use crate::virtio::{
    EventSet,
    chain::Chain,
    queue::{Ring, RingError},
};
use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

mod calls;
mod deliver;

pub use deliver::Delivered;

/// Tells of sockets that are ready: once for each change, so a socket that nobody reads costs nothing.
pub trait Watch {
    /// Begins.
    fn add(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()>;
    /// Ends; the socket is closed next.
    fn remove(&mut self, socket: BorrowedFd<'_>);
    /// Begins to tell of programs that want to connect, or ends.
    fn listen(&mut self, listener: BorrowedFd<'_>, on: bool);
}

/// The host's side.
pub struct Host {
    /// A listening Unix socket that does not block.
    pub listener: OwnedFd,
    /// Connects to whoever serves a port of the host, without blocking.
    pub dial: Box<dyn FnMut(u32) -> io::Result<OwnedFd> + Send>,
    /// The time.
    pub clock: Box<dyn Fn() -> Instant + Send>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

/// Room for data of the guest that the host has not taken yet: much for the first connections, for the sake of few credit
/// updates, and less for those that come when these are taken, for the sake of a bound on the whole.
pub const LARGE_WINDOW: u32 = 1 << 20;
const SMALL_WINDOW: u32 = 64 << 10;
const LARGE_WINDOWS: usize = 32;

/// Refusals that wait for receive buffers; the guest's packets wait when there are so many.
const MAX_REFUSALS: usize = 256;

/// How long the guest may take to let go of a connection that the host has closed.
const LINGER: Duration = Duration::from_secs(8);
/// How long the guest may have no room before it is asked for the first time.
const STALL: Duration = Duration::from_millis(200);
/// How long a program may take over the last bytes of a connection without taking any.
const DRAIN: Duration = Duration::from_secs(60);

/// The exchange of one device.
#[derive(Debug)]
pub struct Exchange {
    guest_cid: u64,
    host: Host,
    table: Table,
    large_windows: usize,
    refusals: VecDeque<Header>,
    gather: Gather,
    chains: Vec<Chain>,
    /// When to listen again, if there were too many open files.
    listen_again: Option<Instant>,
    complained: bool,
}

impl Exchange {
    /// An exchange without connections for a guest with this address.
    pub fn new(guest_cid: u64, host: Host) -> Self {
        Self {
            guest_cid,
            host,
            table: Table::default(),
            large_windows: 0,
            refusals: VecDeque::new(),
            gather: Gather::default(),
            chains: Vec::new(),
            listen_again: None,
            complained: false,
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        (self.host.clock)()
    }

    /// Programs that have to do with the guest.
    #[cfg(test)]
    pub fn peers(&self) -> usize {
        self.table.len()
    }

    /// Begins to watch all sockets, at the start and after a pause.
    pub fn watch_all(&mut self, watch: &mut dyn Watch) {
        watch.listen(self.host.listener.as_fd(), true);
        self.listen_again = None;
        let tokens: Vec<Token> = self.table.tokens().collect();
        for token in tokens {
            let Some(peer) = self.table.get(token) else { continue };
            let Some(socket) = &peer.socket else { continue };
            if let Err(error) = watch.add(socket.as_fd(), token) {
                log::warn!("vsock: a connection is lost: {error}");
                peer.socket = None;
                if let Stage::Linked(link) = &mut peer.stage {
                    link.connection.reset();
                }
            }
            self.table.enqueue(token);
        }
    }

    /// Lets nobody in any more: the device is broken.
    pub fn stop_listening(&mut self, watch: &mut dyn Watch) {
        if self.listen_again.take().is_none() {
            watch.listen(self.host.listener.as_fd(), false);
        }
    }

    /// The driver is gone: ends all connections. Nobody watches their sockets any more.
    pub fn reset(&mut self) {
        self.table.clear();
        self.large_windows = 0;
        self.refusals.clear();
        self.complained = false;
    }

    /// Handles packets of the guest, up to two for each entry of the queue. `true` if more may be waiting.
    pub fn transmit(&mut self, tx: &mut Ring, watch: &mut dyn Watch) -> Result<bool, RingError> {
        let mut left = 2 * u32::from(tx.size());
        loop {
            tx.disable_kicks()?;
            while self.refusals.len() < MAX_REFUSALS {
                let Some(mut chain) = tx.pop()? else { break };
                self.packet(&mut chain, watch);
                tx.push(chain, 0)?;
                left -= 1;
                if left == 0 {
                    return Ok(true);
                }
            }
            if self.is_full_of_refusals() || !tx.enable_kicks()? {
                return Ok(false);
            }
        }
    }

    /// Whether packets of the guest wait until refusals have found receive buffers.
    pub fn is_full_of_refusals(&self) -> bool {
        self.refusals.len() >= MAX_REFUSALS
    }

    fn packet(&mut self, chain: &mut Chain, watch: &mut dyn Watch) {
        let mut bytes = [0; HEADER];
        if !chain.readable.read(&mut bytes) {
            return;
        }
        let header = Header::parse(&bytes);
        // §5.10.6.2.1: a packet of somebody else is dropped.
        if header.source_cid != self.guest_cid || header.destination_cid != HOST_CID {
            return;
        }
        if header.kind != STREAM {
            return self.refuse(&header);
        }
        let ports = Ports {
            guest: header.source_port,
            host: header.destination_port,
        };
        match self.table.find(ports) {
            Some(token) => {
                self.linked(token, &header, chain, watch);
                self.settle(token, watch);
            }
            None if header.op == Op::Request => self.dial(ports, &header, watch),
            None => self.refuse(&header),
        }
    }

    /// §5.10.6.4.1: what belongs to no connection is answered with a RST, but a RST is not.
    fn refuse(&mut self, header: &Header) {
        if header.op != Op::Reset {
            self.refusals.push_back(header.reset());
        }
    }

    /// A packet for a connection.
    fn linked(&mut self, token: Token, header: &Header, chain: &mut Chain, watch: &mut dyn Watch) {
        let now = self.now_if(header.op == Op::Reset);
        let Some(peer) = self.table.get(token) else { return };
        let Some(link) = peer.link() else { return };
        if header.op == Op::Data && header.len as usize > chain.readable.len() {
            link.connection.reset();
            return;
        }
        match link.connection.packet(header) {
            Verdict::Nothing | Verdict::Ended | Verdict::Broken => {}
            Verdict::Data => Self::write(peer, chain, header.len as usize, &mut self.gather),
            Verdict::Shutdown => peer.pass_end_on(),
            Verdict::Opened => self.opened(token, watch),
            Verdict::Refused => self.refused(token, now),
        }
    }

    /// Looks at the clock only where it matters.
    fn now_if(&self, needed: bool) -> Option<Instant> {
        needed.then(|| self.now())
    }

    fn write(peer: &mut Peer, chain: &mut Chain, len: usize, gather: &mut Gather) {
        let deaf = peer.link().is_none_or(|link| link.connection.host_is_deaf());
        let gone = if deaf { Ok(len) } else { peer.write(chain, len, gather) };
        let gone = gone.unwrap_or_else(|_| {
            Self::deafen(peer);
            len
        });
        if let Some(link) = peer.link() {
            link.connection.forwarded(gone);
        }
    }

    /// The program takes nothing more. What waits for it is counted as forwarded, for the guest's sake.
    fn deafen(peer: &mut Peer) {
        let lost = peer.backlog.discard();
        if let Some(link) = peer.link() {
            link.connection.forwarded(lost);
            link.connection.host_shutdown(Shutdown {
                receive: true,
                send: false,
            });
        }
    }

    /// The socket of a peer is ready in some way.
    pub fn ready(&mut self, token: Token, events: EventSet, watch: &mut dyn Watch) {
        let Some(peer) = self.table.get(token) else { return };
        let ended = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        peer.hung_up |= ended;
        peer.ending |= ended || events.contains(EventSet::READ_HANG_UP);
        peer.readable |= peer.ending || events.contains(EventSet::IN);
        match &mut peer.stage {
            Stage::Line(_) if peer.readable => return self.read_line(token, watch),
            Stage::Line(_) => return,
            Stage::Linked(link) if ended && link.connection.is_requested() => link.connection.reset(),
            // Nobody reads there, so nobody would see the end.
            Stage::Linked(link) if ended && !link.connection.wants_data() => {
                link.connection.host_shutdown(Shutdown::BOTH);
            }
            Stage::Linked(_) | Stage::Draining => {}
        }
        if events.contains(EventSet::OUT) && !peer.backlog.is_empty() {
            match peer.flush() {
                Ok(gone) => {
                    if let Some(link) = peer.link() {
                        link.connection.forwarded(gone);
                    }
                    peer.pass_end_on();
                }
                Err(_) => Self::deafen(peer),
            }
            if matches!(peer.stage, Stage::Draining) {
                let until = self.now() + DRAIN;
                self.table.set_deadline(token, Some(until));
            }
        }
        self.settle(token, watch);
    }

    /// Draws the conclusions after something has changed.
    fn settle(&mut self, token: Token, watch: &mut dyn Watch) {
        let Some(peer) = self.table.get(token) else { return };
        let link = match &mut peer.stage {
            Stage::Draining if peer.backlog.is_empty() => return self.remove(token, watch),
            Stage::Line(_) | Stage::Draining => return,
            Stage::Linked(link) => link,
        };
        let connection = &mut link.connection;
        // §5.10.6.5: with both directions given up and all data passed on, the connection ends with a RST.
        if connection.guest_shutdown() == Shutdown::BOTH && peer.backlog.is_empty() {
            connection.reset();
        }
        if connection.is_over() {
            return self.finish(token, watch);
        }
        let has_data = peer.readable && connection.wants_data() && connection.credit() > 0;
        let owes = connection.owes();
        if connection.is_resetting() {
            Self::close(peer, watch);
        }
        if owes || has_data {
            self.table.enqueue(token);
        }
    }

    /// The connection is over for the guest; the program may still have something to read.
    fn finish(&mut self, token: Token, watch: &mut dyn Watch) {
        self.table.unlink(token);
        let until = self.now() + DRAIN;
        let Some(peer) = self.table.get(token) else { return };
        if peer.backlog.is_empty() || peer.socket.is_none() {
            return self.remove(token, watch);
        }
        if let Stage::Linked(link) = std::mem::replace(&mut peer.stage, Stage::Draining) {
            self.release(link.connection.window());
        }
        self.table.set_deadline(token, Some(until));
    }

    fn remove(&mut self, token: Token, watch: &mut dyn Watch) {
        if let Some(mut peer) = self.table.remove(token) {
            Self::close(&mut peer, watch);
            if let Stage::Linked(link) = &peer.stage {
                self.release(link.connection.window());
            }
        }
    }

    fn close(peer: &mut Peer, watch: &mut dyn Watch) {
        peer.backlog.discard();
        if let Some(socket) = peer.socket.take() {
            watch.remove(socket.as_fd());
        }
    }

    /// A window for a new connection.
    fn window(&mut self) -> u32 {
        if self.large_windows == LARGE_WINDOWS {
            return SMALL_WINDOW;
        }
        self.large_windows += 1;
        LARGE_WINDOW
    }

    fn release(&mut self, window: u32) {
        if window == LARGE_WINDOW {
            self.large_windows -= 1;
        }
    }
}
