//! The header of a vsock packet (Virtio 1.2 §5.10.6): bytes to fields and back. Pure.

/// Bytes of a header.
pub const HEADER: usize = 44;
/// The host's address (§5.10.4).
pub const HOST_CID: u64 = 2;
/// Connection-oriented and without message boundaries, the only type here (§5.10.6).
pub const STREAM: u16 = 1;

/// What a packet does (§5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Asks for a connection.
    Request,
    /// Accepts one.
    Response,
    /// Refuses one, or ends it at once.
    Reset,
    /// The sender will not receive, or not send, or neither: see [`Shutdown`].
    Shutdown,
    /// Data.
    Data,
    /// Tells how far the sender has come with what it received.
    CreditUpdate,
    /// Asks for [`Op::CreditUpdate`].
    CreditRequest,
    /// None of the above.
    Unknown(u16),
}

impl Op {
    fn from_bits(bits: u16) -> Self {
        match bits {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => Self::Unknown(other),
        }
    }

    fn bits(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
            Self::Unknown(other) => other,
        }
    }
}

/// Directions of a connection that one side has given up, as the flags of [`Op::Shutdown`] say it (§5.10.6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shutdown {
    /// It will not receive any more.
    pub receive: bool,
    /// It will not send any more.
    pub send: bool,
}

impl Shutdown {
    /// Both directions.
    pub const BOTH: Self = Self {
        receive: true,
        send: true,
    };

    /// The directions that a packet's flags name.
    pub fn from_flags(flags: u32) -> Self {
        Self {
            receive: flags & 1 != 0,
            send: flags & 2 != 0,
        }
    }

    /// As a packet's flags.
    pub fn flags(self) -> u32 {
        u32::from(self.receive) | u32::from(self.send) << 1
    }

    /// These and those of `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            receive: self.receive | other.receive,
            send: self.send | other.send,
        }
    }
}

/// The header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub source_cid: u64,
    /// Address of the receiver.
    pub destination_cid: u64,
    /// Port of the sender.
    pub source_port: u32,
    /// Port of the receiver.
    pub destination_port: u32,
    /// Bytes of data that follow.
    pub len: u32,
    /// [`STREAM`], or a type that is not offered.
    pub kind: u16,
    /// What the packet does.
    pub op: Op,
    /// Meaning depends on `op`.
    pub flags: u32,
    /// Bytes of room that the sender has for this connection in all.
    pub room: u32,
    /// Bytes that the sender has taken out of that room so far; wraps.
    pub forwarded: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let mut from = bytes.as_slice();
        let (source_cid, destination_cid) = (u64::from_le_bytes(take(&mut from)), u64::from_le_bytes(take(&mut from)));
        let mut word = || u32::from_le_bytes(take(&mut from));
        let (source_port, destination_port, len, kind_and_op) = (word(), word(), word(), word());
        Self {
            source_cid,
            destination_cid,
            source_port,
            destination_port,
            len,
            kind: kind_and_op as u16,
            op: Op::from_bits((kind_and_op >> 16) as u16),
            flags: word(),
            room: word(),
            forwarded: word(),
        }
    }

    /// Writes a header.
    pub fn bytes(&self) -> [u8; HEADER] {
        let words = [
            self.source_cid as u32,
            (self.source_cid >> 32) as u32,
            self.destination_cid as u32,
            (self.destination_cid >> 32) as u32,
            self.source_port,
            self.destination_port,
            self.len,
            u32::from(self.kind) | u32::from(self.op.bits()) << 16,
            self.flags,
            self.room,
            self.forwarded,
        ];
        let mut bytes = [0; HEADER];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// The refusal of this packet, whatever it was.
    #[must_use]
    pub fn reset(&self) -> Self {
        Self {
            source_cid: self.destination_cid,
            destination_cid: self.source_cid,
            source_port: self.destination_port,
            destination_port: self.source_port,
            len: 0,
            kind: self.kind,
            op: Op::Reset,
            flags: 0,
            room: 0,
            forwarded: 0,
        }
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let Some((bytes, rest)) = from.split_first_chunk() else {
        return [0; N];
    };
    *from = rest;
    *bytes
}

#[cfg(test)]
mod tests;
