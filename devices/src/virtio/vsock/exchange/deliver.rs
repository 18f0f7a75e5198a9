//! Packets to the guest: connections take turns, and each turn has its measure.
use super::{
    super::{
        gather::Received,
        packet::{HEADER, Header, Op, Shutdown},
        peer::{Stage, is_transient},
        table::Token,
    },
    Exchange, LINGER, STALL, Watch,
};
use crate::virtio::{
    chain::Chain,
    queue::{Ring, RingError},
};

/// Bytes that one connection may send to the guest before it is another one's turn.
const QUANTUM: usize = 64 << 10;
/// Turns after which other devices on the thread come first.
const TURNS: usize = 8;
/// Receive buffers that one system call fills at most.
const MAX_BATCH: usize = 32;

/// How far delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// There is nothing more for the guest.
    All,
    /// The guest has no receive buffers left, and will kick.
    Dry,
    /// There is more, but others come first.
    Some,
}

enum Turn {
    Done,
    Again,
    Dry,
}

enum Read {
    Bytes(usize),
    Nothing,
    Dry,
}

impl Exchange {
    /// Gives the guest what there is for it, and interrupts it after each turn.
    pub fn deliver(&mut self, rx: &mut Ring, watch: &mut dyn Watch) -> Result<Delivered, RingError> {
        loop {
            let delivered = self.rounds(rx, watch)?;
            rx.signal()?;
            if delivered != Delivered::Dry {
                rx.disable_kicks()?;
                return Ok(delivered);
            }
            if !rx.enable_kicks()? {
                return Ok(Delivered::Dry);
            }
        }
    }

    fn rounds(&mut self, rx: &mut Ring, watch: &mut dyn Watch) -> Result<Delivered, RingError> {
        while let Some(header) = self.refusals.front() {
            let Some(chain) = pop(rx)? else {
                return Ok(Delivered::Dry);
            };
            put(rx, chain, header, 0)?;
            self.refusals.pop_front();
        }
        for _ in 0..TURNS {
            let Some(token) = self.table.next_turn() else {
                return Ok(Delivered::All);
            };
            match self.turn(token, rx, watch)? {
                Turn::Done => self.settle(token, watch),
                Turn::Again => self.table.enqueue(token),
                Turn::Dry => {
                    self.table.keep_turn(token);
                    return Ok(Delivered::Dry);
                }
            }
            rx.signal()?;
        }
        Ok(if self.table.has_turns() {
            Delivered::Some
        } else {
            Delivered::All
        })
    }

    fn turn(&mut self, token: Token, rx: &mut Ring, watch: &mut dyn Watch) -> Result<Turn, RingError> {
        let mut left = QUANTUM;
        loop {
            let Some(peer) = self.table.get(token) else {
                return Ok(Turn::Done);
            };
            let Stage::Linked(link) = &mut peer.stage else {
                return Ok(Turn::Done);
            };
            let connection = &mut link.connection;
            if connection.owes() {
                let Some(chain) = pop(rx)? else { return Ok(Turn::Dry) };
                if let Some(header) = connection.next() {
                    put(rx, chain, &header, 0)?;
                    self.told(token, &header, watch);
                } else {
                    rx.unpop(chain);
                }
                continue;
            }
            if !peer.readable || !connection.wants_data() {
                return Ok(Turn::Done);
            }
            let credit = connection.credit() as usize;
            if credit == 0 {
                if link.stalled.is_none() {
                    link.stalled = Some(0);
                    let until = self.now() + STALL;
                    self.table.set_deadline(token, Some(until));
                }
                return Ok(Turn::Done);
            }
            if link.stalled.take().is_some() {
                self.table.set_deadline(token, None);
                continue;
            }
            if left == 0 {
                return Ok(Turn::Again);
            }
            match self.read(token, credit.min(left), rx)? {
                Read::Bytes(n) => left -= n.min(left),
                Read::Nothing => {}
                Read::Dry => return Ok(Turn::Dry),
            }
        }
    }

    /// A packet without data has gone to the guest.
    fn told(&mut self, token: Token, header: &Header, watch: &mut dyn Watch) {
        if header.op != Op::Shutdown {
            return;
        }
        let until = self.now() + LINGER;
        let Some(peer) = self.table.get(token) else { return };
        let Stage::Linked(link) = &mut peer.stage else { return };
        if link.connection.told() == Shutdown::BOTH {
            link.stalled = None;
            Self::close(peer, watch);
            self.table.set_deadline(token, Some(until));
        }
    }

    /// Reads once from the socket, straight into as many receive buffers as the last reads have filled.
    fn read(&mut self, token: Token, limit: usize, rx: &mut Ring) -> Result<Read, RingError> {
        let mut chains = std::mem::take(&mut self.chains);
        let read = self.read_into(&mut chains, token, limit, rx);
        // Those that were not needed, the last first.
        while let Some(chain) = chains.pop() {
            rx.unpop(chain);
        }
        self.chains = chains;
        read
    }

    fn read_into(
        &mut self,
        chains: &mut Vec<Chain>,
        token: Token,
        limit: usize,
        rx: &mut Ring,
    ) -> Result<Read, RingError> {
        let Some(peer) = self.table.get(token) else {
            return Ok(Read::Nothing);
        };
        let Some(batch) = peer.link().map(|link| link.batch) else {
            return Ok(Read::Nothing);
        };
        self.gather.clear();
        let mut room = 0;
        while chains.len() < batch && room < limit {
            let Some(chain) = pop(rx)? else { break };
            let added = self.gather.add(&chain.writable, HEADER, limit - room);
            chains.push(chain);
            if added == 0 {
                return Err(RingError::Protocol("a receive buffer has no room for data"));
            }
            room += added;
        }
        if chains.is_empty() {
            return Ok(Read::Dry);
        }
        let received = peer.receive(&mut self.gather);
        let hung_up = peer.hung_up;
        let Stage::Linked(link) = &mut peer.stage else {
            return Ok(Read::Nothing);
        };
        let Received { bytes, cut } = match received {
            Ok(received) if received.bytes > 0 => received,
            Ok(_) => {
                link.connection.host_shutdown(Shutdown {
                    send: true,
                    receive: hung_up,
                });
                return Ok(Read::Nothing);
            }
            Err(error) if is_transient(&error) => {
                peer.readable = false;
                return Ok(Read::Nothing);
            }
            Err(_) => {
                link.connection.host_shutdown(Shutdown::BOTH);
                return Ok(Read::Nothing);
            }
        };
        let count = chains.len();
        let used = chains_for(chains, bytes);
        let mut left = bytes;
        for chain in chains.drain(..used) {
            let len = left.min(chain.writable.len().saturating_sub(HEADER));
            put(rx, chain, &link.connection.data(len as u32), len as u32)?;
            left -= len;
        }
        let full = bytes == room;
        link.batch = if full { (2 * count).min(MAX_BATCH) } else { used };
        // A socket that gave less than it was asked for is empty, and an event tells of more; but the end is seen by reading it.
        peer.readable = full || cut || peer.ending;
        Ok(Read::Bytes(bytes))
    }
}

/// How many of the buffers the first `bytes` bytes of data take.
fn chains_for(chains: &[Chain], bytes: usize) -> usize {
    let mut left = bytes;
    let fills = |chain: &&Chain| {
        let more = left > 0;
        left = left.saturating_sub(chain.writable.len() - HEADER);
        more
    };
    chains.iter().take_while(fills).count()
}

/// The next receive buffer, with room for a header.
fn pop(rx: &mut Ring) -> Result<Option<Chain>, RingError> {
    match rx.pop()? {
        Some(chain) if chain.writable.len() < HEADER => Err(RingError::Protocol(
            "a receive buffer has no room for a packet's header",
        )),
        chain => Ok(chain),
    }
}

/// Completes a packet whose data are in place.
fn put(rx: &mut Ring, mut chain: Chain, header: &Header, len: u32) -> Result<(), RingError> {
    // Cannot fail: `pop` has checked the room.
    let _ = chain.writable.write(&header.bytes());
    rx.push(chain, HEADER as u32 + len)
}
