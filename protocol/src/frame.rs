//! Frames: `[u32 length, big endian][CBOR message]`. The length counts the message alone and is bounded.
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Bytes that one message may take. Bulk data travels in pieces below it.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced more bytes than [`MAX_MESSAGE`].
    #[error(
        "the peer announced a message of {0} bytes, more than the {MAX_MESSAGE} that are allowed; it speaks another protocol or is broken"
    )]
    TooLong(usize),
    /// The bytes are no message of this protocol.
    #[error("the peer sent bytes that are no message of this protocol: {0}")]
    Malformed(String),
    /// The connection failed or ended within a message.
    #[error("the connection ended")]
    Io(#[from] io::Error),
}

/// Writes one message as a single `write_all`.
pub fn write<M: Serialize>(to: &mut impl Write, message: &M) -> Result<(), FrameError> {
    let mut bytes = vec![0; 4];
    ciborium::into_writer(message, &mut bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let length = bytes.len() - 4;
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_MESSAGE)
        .ok_or(FrameError::TooLong(length))?;
    if let Some(head) = bytes.first_chunk_mut::<4>() {
        *head = prefix.to_be_bytes();
    }
    Ok(to.write_all(&bytes)?)
}

/// Reads one message; `None` at a clean end between messages.
pub fn read<M: DeserializeOwned>(from: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut head = [0; 4];
    let Some((first, rest)) = head.split_first_mut() else {
        return Ok(None);
    };
    loop {
        match from.read(std::slice::from_mut(first)) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    from.read_exact(rest)?;
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong(length));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    ciborium::from_reader(bytes.as_slice())
        .map(Some)
        .map_err(|e| FrameError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_and_the_stream_ends_cleanly() {
        let mut wire = Vec::new();
        write(&mut wire, &(7u8, "hello")).unwrap();
        let mut from = wire.as_slice();
        assert_eq!(read(&mut from).unwrap(), Some((7u8, "hello".to_string())));
        assert!(read::<u8>(&mut from).unwrap().is_none());
    }

    #[test]
    fn an_announced_length_is_bounded_before_it_is_allocated() {
        let wire = [0xff; 4];
        assert!(matches!(read::<u8>(&mut wire.as_slice()), Err(FrameError::TooLong(_))));
    }
}
