//! How connections begin, from either side, and what happens when the time for something is over.
use super::{
    super::{
        connect_line::{Call, ConnectLine, MAX_LINE, Progress},
        connection::{Connection, Ports},
        packet::{Header, Shutdown},
        peer::{Link, Peer, Stage, is_transient},
        table::Token,
    },
    Exchange, STALL, Watch,
};
use rustix::net::{SocketFlags, accept_with};
use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// How long a program may take over its CONNECT line.
const LINE: Duration = Duration::from_secs(10);
/// How long the guest may take to answer a request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a program that waits for the guest to listen waits between two requests.
const RETRY: Duration = Duration::from_millis(20);
/// How long to leave programs waiting when no more files can be opened.
const PAUSE: Duration = Duration::from_millis(100);
/// Programs that are let in at once.
const ACCEPTS: usize = 64;

/// How often the time between two questions about the guest's room doubles.
const MAX_DOUBLINGS: u32 = 8;

const BUSY: &str = "ERROR the guest has as many connections as it can have\n";
const SLOW: &str = "ERROR no CONNECT line came within 10 seconds\n";

impl Exchange {
    /// Lets programs in that have connected to the listening socket.
    pub fn accept(&mut self, watch: &mut dyn Watch) {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = match accept_with(&self.host.listener, flags) {
                Ok(socket) => socket,
                Err(error) => return self.cannot_accept(error.into(), watch),
            };
            let peer = Peer::new(socket, Stage::Line(ConnectLine::new()));
            if !self.table.has_room() {
                // A program that has gone already needs no answer.
                let _ = peer.tell(BUSY);
                continue;
            }
            let until = self.now() + LINE;
            if let Some(token) = self.admit(peer, watch) {
                self.table.set_deadline(token, Some(until));
            }
        }
    }

    fn cannot_accept(&mut self, error: io::Error, watch: &mut dyn Watch) {
        if is_transient(&error) || error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        // Too many open files: the socket would stay ready all the time.
        watch.listen(self.host.listener.as_fd(), false);
        self.listen_again = Some(self.now() + PAUSE);
        if !std::mem::replace(&mut self.complained, true) {
            log::warn!("vsock: cannot accept a connection: {error}; trying again. Raise the limit of open files");
        }
    }

    /// Takes a peer in and watches its socket.
    fn admit(&mut self, peer: Peer, watch: &mut dyn Watch) -> Option<Token> {
        let token = self.table.add(peer)?;
        let socket = self.table.get(token)?.socket.as_ref()?;
        if let Err(error) = watch.add(socket.as_fd(), token) {
            log::warn!("vsock: cannot watch a connection, which is closed: {error}");
            self.table.remove(token);
            return None;
        }
        Some(token)
    }

    /// Reads what there is of a CONNECT line.
    pub(super) fn read_line(&mut self, token: Token, watch: &mut dyn Watch) {
        loop {
            let Some(peer) = self.table.get(token) else { return };
            let mut bytes = [0; MAX_LINE];
            let Stage::Line(line) = &peer.stage else { return };
            let room = bytes.get_mut(..line.room()).unwrap_or_default();
            let n = match peer.peek(room) {
                Err(error) if is_transient(&error) => {
                    peer.readable = false;
                    return;
                }
                Ok(n) if n > 0 => n,
                _ => return self.remove(token, watch),
            };
            let Stage::Line(line) = &mut peer.stage else { return };
            let piece = room.get(..n).unwrap_or_default();
            let (used, call) = match line.feed(piece) {
                Progress::More => (n, None),
                Progress::Complete { call, used } => (used, Some(call)),
                Progress::Malformed(why) => {
                    let _ = peer.tell(why);
                    return self.remove(token, watch);
                }
            };
            // What was looked at is still there.
            let _ = peer.take(room.get_mut(..used).unwrap_or_default());
            if let Some(call) = call {
                return self.request(token, call);
            }
        }
    }

    fn request(&mut self, token: Token, call: Call) {
        let ports = self.table.free_port(call.port);
        let connection = Connection::request(self.guest_cid, ports, self.window());
        let now = self.now();
        let patience = call.wait.map(|wait| now + wait);
        let Some(peer) = self.table.get(token) else { return };
        peer.stage = Stage::Linked(Link::new(connection, true, patience));
        self.table.link(token, ports);
        self.await_answer(token, now, patience);
        self.table.enqueue(token);
    }

    fn await_answer(&mut self, token: Token, now: Instant, patience: Option<Instant>) {
        let until = now + REQUEST;
        self.table
            .set_deadline(token, Some(patience.map_or(until, |patience| patience.max(until))));
    }

    /// The guest wants a connection to a port of the host.
    pub(super) fn dial(&mut self, ports: Ports, header: &Header, watch: &mut dyn Watch) {
        if !self.table.has_room() {
            return self.refuse(header);
        }
        let socket = match (self.host.dial)(ports.host) {
            Ok(socket) => socket,
            Err(error) => {
                log::debug!("vsock: nobody serves port {} for the guest: {error}", ports.host);
                return self.refuse(header);
            }
        };
        let window = self.window();
        let connection = Connection::accept(self.guest_cid, ports, window, header);
        let link = Link::new(connection, false, None);
        if let Some(token) = self.admit(Peer::new(socket, Stage::Linked(link)), watch) {
            self.table.link(token, ports);
            self.table.enqueue(token);
        } else {
            self.release(window);
            self.refuse(header);
        }
    }

    /// The guest has accepted.
    pub(super) fn opened(&mut self, token: Token, watch: &mut dyn Watch) {
        self.table.set_deadline(token, None);
        let Some(peer) = self.table.get(token) else { return };
        // Events that came before are of no use now.
        peer.readable = true;
        let Some(link) = peer.link() else { return };
        link.patience = None;
        if std::mem::take(&mut link.expects_answer) {
            let answer = format!("OK {}\n", link.connection.ports().host);
            if !peer.tell(&answer) {
                if let Some(link) = peer.link() {
                    link.connection.reset();
                }
                self.settle(token, watch);
            }
        }
    }

    /// Nobody listens in the guest, not yet perhaps.
    pub(super) fn refused(&mut self, token: Token, now: Option<Instant>) {
        let now = now.unwrap_or_else(|| self.now());
        let Some(link) = self.table.get(token).and_then(Peer::link) else {
            return;
        };
        match link.patience.filter(|patience| now < *patience) {
            Some(patience) => {
                link.retry = true;
                self.table.set_deadline(token, Some(patience.min(now + RETRY)));
            }
            None => link.connection.give_up(),
        }
    }

    /// The next moment at which [`Exchange::expire`] has something to do.
    pub fn first_deadline(&self) -> Option<Instant> {
        match (self.table.first_deadline(), self.listen_again) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Does what has become due.
    pub fn expire(&mut self, watch: &mut dyn Watch) {
        let now = self.now();
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen_again = None;
            watch.listen(self.host.listener.as_fd(), true);
        }
        while let Some(token) = self.table.due(now) {
            self.overdue(token, now, watch);
        }
    }

    fn overdue(&mut self, token: Token, now: Instant, watch: &mut dyn Watch) {
        let Some(peer) = self.table.get(token) else { return };
        let link = match &mut peer.stage {
            Stage::Line(_) => {
                let _ = peer.tell(SLOW);
                return self.remove(token, watch);
            }
            Stage::Draining => return self.remove(token, watch),
            Stage::Linked(link) => link,
        };
        if link.connection.is_requested() {
            let patience = link.patience;
            if std::mem::take(&mut link.retry) && patience.is_some_and(|patience| now < patience) {
                link.connection.request_again();
                self.await_answer(token, now, patience);
            } else {
                link.connection.reset();
            }
        } else if link.connection.told() == Shutdown::BOTH {
            link.connection.reset();
        } else if let Some(asked) = &mut link.stalled {
            *asked += 1;
            let until = now + STALL * (1 << (*asked).min(MAX_DOUBLINGS));
            link.connection.ask_for_credit();
            self.table.set_deadline(token, Some(until));
        }
        self.settle(token, watch);
    }
}
