//! All peers of a device: found by socket, by ports and by deadline, and whose turn it is. Bounded, and no operation looks
//! at all of them.
use super::{
    connection::Ports,
    peer::{Peer, Stage},
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Instant,
};

/// Programs on the host that one guest has to do with at most, at the same time.
pub const MAX_PEERS: usize = 2048;

/// Bits of a token that number the slot; those above count how often the slot was used.
const INDEX_BITS: u32 = MAX_PEERS.trailing_zeros();
const GENERATIONS: u32 = 1 << 19;

/// Names a peer, and never again another one in the same place soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u32);

impl Token {
    fn new(index: usize, generation: u32) -> Self {
        Self(generation << INDEX_BITS | index as u32)
    }

    fn index(self) -> usize {
        (self.0 & (MAX_PEERS as u32 - 1)) as usize
    }

    /// As the data of an event; at most 30 bits.
    pub fn data(self) -> u32 {
        self.0
    }

    /// From the data of an event.
    pub fn from_data(data: u32) -> Self {
        Self(data)
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    peer: Option<Peer>,
    /// Is in the line of turns. Stays there if the peer leaves, so a slot is there once at most.
    in_line: bool,
    deadline: Option<Instant>,
}

/// The peers.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_ports: HashMap<Ports, Token>,
    deadlines: BTreeSet<(Instant, Token)>,
    turns: VecDeque<usize>,
    next_port: u32,
    len: usize,
}

/// Ports of the host for connections that the host asks for: from here on, as clients of Firecracker know it.
const FIRST_PORT: u32 = 1 << 30;

impl Table {
    /// Forgets all peers, but not which ports were used last.
    pub fn clear(&mut self) {
        *self = Self {
            next_port: self.next_port,
            ..Self::default()
        };
    }

    /// Peers.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether one more has room.
    pub fn has_room(&self) -> bool {
        self.len < MAX_PEERS
    }

    /// Adds a peer, unless the table is full.
    pub fn add(&mut self, peer: Peer) -> Option<Token> {
        if !self.has_room() {
            return None;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = self.slots.get_mut(index)?;
        slot.peer = Some(peer);
        self.len += 1;
        Some(Token::new(index, slot.generation))
    }

    /// A peer, unless it has left.
    pub fn get(&mut self, token: Token) -> Option<&mut Peer> {
        self.slot(token)?.peer.as_mut()
    }

    /// Takes a peer out, with its ports and its deadline.
    pub fn remove(&mut self, token: Token) -> Option<Peer> {
        self.set_deadline(token, None);
        self.unlink(token);
        let slot = self.slot(token)?;
        let peer = slot.peer.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(token.index());
        self.len -= 1;
        Some(peer)
    }

    /// Finds the peer with these ports.
    pub fn find(&self, ports: Ports) -> Option<Token> {
        self.by_ports.get(&ports).copied()
    }

    /// Makes a peer be found by its ports.
    pub fn link(&mut self, token: Token, ports: Ports) {
        self.by_ports.insert(ports, token);
    }

    /// Frees the ports of a peer.
    pub fn unlink(&mut self, token: Token) {
        if let Some(peer) = self.get(token)
            && let Stage::Linked(link) = &peer.stage
        {
            let ports = link.connection.ports();
            if self.by_ports.get(&ports) == Some(&token) {
                self.by_ports.remove(&ports);
            }
        }
    }

    /// A port of the host that has no connection to this port of the guest.
    pub fn free_port(&mut self, guest: u32) -> Ports {
        loop {
            let host = FIRST_PORT | self.next_port;
            self.next_port = (self.next_port + 1) % FIRST_PORT;
            let ports = Ports { guest, host };
            // Ends: there are far fewer peers than ports.
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Puts a peer at the end of the line, if it is not in it.
    pub fn enqueue(&mut self, token: Token) {
        if let Some(slot) = self.slot(token)
            && !slot.in_line
        {
            slot.in_line = true;
            self.turns.push_back(token.index());
        }
    }

    /// Whose turn it is; gives it out of the line.
    pub fn next_turn(&mut self) -> Option<Token> {
        while let Some(index) = self.turns.pop_front() {
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            slot.in_line = false;
            if slot.peer.is_some() {
                return Some(Token::new(index, slot.generation));
            }
        }
        None
    }

    /// Gives a turn back, to be the next one.
    pub fn keep_turn(&mut self, token: Token) {
        if let Some(slot) = self.slot(token)
            && !slot.in_line
        {
            slot.in_line = true;
            self.turns.push_front(token.index());
        }
    }

    /// Whether anybody waits for a turn.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Sets or clears the moment at which a peer shall be looked at.
    pub fn set_deadline(&mut self, token: Token, at: Option<Instant>) {
        let Some(slot) = self.slot(token) else { return };
        let before = std::mem::replace(&mut slot.deadline, at);
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, token));
        }
        if let Some(at) = at {
            self.deadlines.insert((at, token));
        }
    }

    /// The first deadline.
    pub fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A peer whose moment has come; its deadline is cleared.
    pub fn due(&mut self, now: Instant) -> Option<Token> {
        let (at, token) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.set_deadline(token, None);
        Some(token)
    }

    /// All peers, to watch their sockets anew or to let them go.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.peer.is_some())
            .map(|(index, slot)| Token::new(index, slot.generation))
    }

    fn slot(&mut self, token: Token) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(token.index())?;
        (slot.peer.is_some() && Token::new(token.index(), slot.generation) == token).then_some(slot)
    }
}

#[cfg(test)]
mod tests;
