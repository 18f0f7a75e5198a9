//! One connection between a port of the guest and a port of the host: what may be sent, and what is owed (Virtio 1.2
//! §5.10.6). Pure: packets and the state of the socket go in, packets come out.
//!
//! ```text
//! dialed by the host:   Requested ──RESPONSE──▶ Open ──▶ ...        Requested ──RST──▶ refused, may ask again
//! dialed by the guest:  Open, owes a RESPONSE
//! Open: each direction ends by itself (SHUTDOWN); it is over when one side has sent RST
//! ```
//!
//! Credit (§5.10.6.3): nobody sends more than the other has room for. Counters wrap at 2^32, so differences count.
use super::packet::{HOST_CID, Header, Op, STREAM, Shutdown};

/// The two ports of a connection; there is one connection for each pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The guest's.
    pub guest: u32,
    /// The host's.
    pub host: u32,
}

/// What a packet of the guest means for whoever holds the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing beyond what the connection now owes or may send.
    Nothing,
    /// Its data belong to the socket; each byte shall be reported to [`Connection::forwarded`].
    Data,
    /// The guest has accepted the connection.
    Opened,
    /// Nobody listens in the guest.
    Refused,
    /// The guest gives up directions; what it has sent still goes to the socket.
    Shutdown,
    /// The guest has ended the connection.
    Ended,
    /// The guest breaks the rules; the connection owes a RST.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Requested,
    Open,
    /// A RST is owed, and nothing else.
    Resetting,
    /// One side has sent a RST.
    Over,
}

/// Packets without data that are owed to the guest.
#[derive(Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit: bool,
    credit_request: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    guest_cid: u64,
    phase: Phase,
    owed: Owed,
    /// What the guest has given up.
    guest: Shutdown,
    /// What the host has given up.
    host: Shutdown,
    /// Which of that the guest knows.
    told: Shutdown,
    /// Our room, and what the guest has sent into it; what has left it, and which of that the guest knows.
    window: u32,
    received: u32,
    forwarded: u32,
    advertised: u32,
    /// The guest's room, what has left it, and what we have sent into it.
    guest_window: u32,
    guest_forwarded: u32,
    sent: u32,
}

impl Connection {
    fn new(guest_cid: u64, ports: Ports, window: u32, phase: Phase) -> Self {
        Self {
            ports,
            guest_cid,
            phase,
            owed: Owed::default(),
            guest: Shutdown::default(),
            host: Shutdown::default(),
            told: Shutdown::default(),
            window,
            received: 0,
            forwarded: 0,
            advertised: 0,
            guest_window: 0,
            guest_forwarded: 0,
            sent: 0,
        }
    }

    /// The host asks for a connection, and takes up to `window` bytes before they are forwarded.
    pub fn request(guest_cid: u64, ports: Ports, window: u32) -> Self {
        let mut connection = Self::new(guest_cid, ports, window, Phase::Requested);
        connection.owed.request = true;
        connection
    }

    /// The guest has asked for a connection, and the host accepts.
    pub fn accept(guest_cid: u64, ports: Ports, window: u32, request: &Header) -> Self {
        let mut connection = Self::new(guest_cid, ports, window, Phase::Open);
        connection.owed.response = true;
        connection.credit_of(request);
        connection
    }

    /// Its ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Bytes that the guest may have on their way.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// A packet of the guest for these ports.
    pub fn packet(&mut self, header: &Header) -> Verdict {
        self.credit_of(header);
        match (header.op, self.phase) {
            // A late answer to an earlier request.
            (Op::Reset, Phase::Requested) if self.owed.request => Verdict::Nothing,
            (_, Phase::Over) | (Op::CreditUpdate, Phase::Open) => Verdict::Nothing,
            (Op::Reset, Phase::Requested) => Verdict::Refused,
            (Op::Reset, _) => {
                self.phase = Phase::Over;
                Verdict::Ended
            }
            (_, Phase::Resetting) => Verdict::Nothing,
            (Op::Response, Phase::Requested) if !self.owed.request => {
                self.phase = Phase::Open;
                Verdict::Opened
            }
            (Op::Data, Phase::Open) if !self.guest.send && header.len <= self.room() => {
                self.received = self.received.wrapping_add(header.len);
                Verdict::Data
            }
            (Op::Shutdown, Phase::Open) => {
                self.guest = self.guest.and(Shutdown::from_flags(header.flags));
                Verdict::Shutdown
            }
            (Op::CreditRequest, Phase::Open) => {
                self.owed.credit = true;
                Verdict::Nothing
            }
            _ => {
                self.reset();
                Verdict::Broken
            }
        }
    }

    /// Packets of different threads of the guest may overtake each other, so what is older than what is known is not news.
    fn credit_of(&mut self, header: &Header) {
        self.guest_window = header.room;
        let news = header.forwarded.wrapping_sub(self.guest_forwarded);
        if news <= self.sent.wrapping_sub(self.guest_forwarded) {
            self.guest_forwarded = header.forwarded;
        }
    }

    /// Bytes that the guest may still send.
    fn room(&self) -> u32 {
        self.window.saturating_sub(self.received.wrapping_sub(self.forwarded))
    }

    /// Bytes that the guest has room for; none if it has shrunk its room below what is on its way.
    pub fn credit(&self) -> u32 {
        self.guest_window
            .saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// Whether data of the host can go to the guest, credit apart.
    pub fn wants_data(&self) -> bool {
        self.phase == Phase::Open && !self.guest.receive && !self.host.send
    }

    /// Whether packets without data are owed.
    pub fn owes(&self) -> bool {
        let owed = &self.owed;
        match self.phase {
            Phase::Requested => owed.request,
            Phase::Open => owed.response || owed.credit || owed.credit_request || self.host != self.told,
            Phase::Resetting => true,
            Phase::Over => false,
        }
    }

    /// The next packet without data that is owed, if there is one.
    pub fn next(&mut self) -> Option<Header> {
        if !self.owes() {
            return None;
        }
        let owed = &mut self.owed;
        if self.phase == Phase::Resetting {
            self.phase = Phase::Over;
            return Some(self.header(Op::Reset, 0, 0));
        }
        let first = [
            (&mut owed.request, Op::Request),
            (&mut owed.response, Op::Response),
            (&mut owed.credit_request, Op::CreditRequest),
        ]
        .into_iter()
        .find_map(|(flag, op)| std::mem::take(flag).then_some(op));
        if let Some(op) = first {
            return Some(self.header(op, 0, 0));
        }
        if self.host != self.told {
            self.told = self.host;
            return Some(self.header(Op::Shutdown, 0, self.told.flags()));
        }
        Some(self.header(Op::CreditUpdate, 0, 0))
    }

    /// The header of `len` bytes of data, which are at most [`Connection::credit`].
    pub fn data(&mut self, len: u32) -> Header {
        self.sent = self.sent.wrapping_add(len);
        self.header(Op::Data, len, 0)
    }

    /// Every packet tells how far the host has come.
    fn header(&mut self, op: Op, len: u32, flags: u32) -> Header {
        self.owed.credit = false;
        self.advertised = self.forwarded;
        Header {
            source_cid: HOST_CID,
            destination_cid: self.guest_cid,
            source_port: self.ports.host,
            destination_port: self.ports.guest,
            len,
            kind: STREAM,
            op,
            flags,
            room: self.window,
            forwarded: self.forwarded,
        }
    }

    /// `n` bytes of the guest have left our room. The guest is told when it believes that half of the room is taken: of ours,
    /// or of as much as it has itself, for newer kernels (Linux 6.1.192 is one) trust no host with more.
    pub fn forwarded(&mut self, n: usize) {
        self.forwarded = self.forwarded.wrapping_add(n as u32);
        let room = self.window.min(self.guest_window);
        if self.received.wrapping_sub(self.advertised) > room / 2 && !self.guest.send {
            self.owed.credit = true;
        }
    }

    /// The host has given up directions: nothing more comes from its socket, or nothing more goes there.
    pub fn host_shutdown(&mut self, directions: Shutdown) {
        self.host = self.host.and(directions);
    }

    /// What the guest has given up.
    pub fn guest_shutdown(&self) -> Shutdown {
        self.guest
    }

    /// What the host has given up and the guest knows of.
    pub fn told(&self) -> Shutdown {
        self.told
    }

    /// Whether nobody reads what the guest still sends.
    pub fn host_is_deaf(&self) -> bool {
        self.host.receive
    }

    /// Asks the guest for its credit, with the next packets.
    pub fn ask_for_credit(&mut self) {
        self.owed.credit_request = self.phase == Phase::Open;
    }

    /// Asks for the connection again, after a refusal.
    pub fn request_again(&mut self) {
        self.owed.request = self.phase == Phase::Requested;
    }

    /// Whether the guest has been asked for the connection and has not answered.
    pub fn is_requested(&self) -> bool {
        self.phase == Phase::Requested
    }

    /// Ends the connection: a RST is owed, and nothing else. A guest that has not heard of it needs none.
    pub fn reset(&mut self) {
        self.phase = match self.phase {
            Phase::Requested if self.owed.request => Phase::Over,
            Phase::Over => Phase::Over,
            _ => Phase::Resetting,
        };
    }

    /// Takes a refusal for an answer.
    pub fn give_up(&mut self) {
        self.phase = Phase::Over;
    }

    /// Whether a RST is owed.
    pub fn is_resetting(&self) -> bool {
        self.phase == Phase::Resetting
    }

    /// Whether nothing more is to be said.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}

#[cfg(test)]
mod tests;
