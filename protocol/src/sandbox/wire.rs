//! Frames: `[u32 length][u32 number][u8 kind]`, big endian, then `length` bytes of CBOR.
//!
//! Numbers are the host's: a request has one, its answers have the same. The upper six bits of the kind are zero and
//! ignored.
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Bytes of CBOR in one frame, at most.
pub const MAX_BODY: usize = 1 << 20;

/// Bytes before the CBOR.
pub const HEADER: usize = 9;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host wants something.
    Request,
    /// The last answer to a request.
    Answer,
    /// An answer after which more follow.
    Part,
    /// The guest says something by itself; the number is zero.
    Notice,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Answer => 1,
            Self::Part => 2,
            Self::Notice => 3,
        }
    }

    fn of(byte: u8) -> Self {
        match byte & 3 {
            0 => Self::Request,
            1 => Self::Answer,
            2 => Self::Part,
            _ => Self::Notice,
        }
    }
}

/// A frame whose message has not been looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which request it belongs to.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
    /// The message as CBOR.
    pub body: Vec<u8>,
}

/// Why a frame could not be had, or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// More bytes than [`MAX_BODY`].
    #[error("a message of {0} bytes is more than the {MAX_BODY} that are allowed: ask for less at once")]
    TooLong(usize),
    /// The body is no message of the kind that is due.
    #[error("the peer sent bytes that are no message of this protocol: {0}")]
    Malformed(String),
    /// The connection failed, or ended within a frame.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// A message as the bytes of a frame.
pub fn encode<M: Serialize>(number: u32, kind: Kind, message: &M) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; HEADER];
    ciborium::into_writer(message, &mut bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    let length = bytes.len() - HEADER;
    let announced = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_BODY)
        .ok_or(WireError::TooLong(length))?;
    let header = announced.to_be_bytes().into_iter().chain(number.to_be_bytes());
    for (to, from) in bytes.iter_mut().zip(header.chain([kind.byte()])) {
        *to = from;
    }
    Ok(bytes)
}

/// Writes a message as one frame, in one piece.
pub fn write<M: Serialize>(to: &mut impl Write, number: u32, kind: Kind, message: &M) -> Result<(), WireError> {
    Ok(to.write_all(&encode(number, kind, message)?)?)
}

/// Reads one frame; `None` at a clean end between frames.
pub fn read(from: &mut impl Read) -> Result<Option<Frame>, WireError> {
    let mut header = [0; HEADER];
    let mut have = 0;
    while let Some(space) = header.get_mut(have..).filter(|space| !space.is_empty()) {
        match from.read(space) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let [l0, l1, l2, l3, n0, n1, n2, n3, kind] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_BODY {
        return Err(WireError::TooLong(length));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(Frame {
        number: u32::from_be_bytes([n0, n1, n2, n3]),
        kind: Kind::of(kind),
        body,
    }))
}

impl Frame {
    /// Its message.
    pub fn message<M: DeserializeOwned>(&self) -> Result<M, WireError> {
        ciborium::from_reader(self.body.as_slice()).map_err(|error| WireError::Malformed(error.to_string()))
    }
}
