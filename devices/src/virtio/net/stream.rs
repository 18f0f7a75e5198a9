//! Frames in a stream: four bytes of length, big endian, then the frame without a virtio header, as QEMU and passt have it.
//! Keeps the framing whatever the socket takes or gives at once. Owned by a [`super::wire::Wire`].
use super::{super::memory::Buffers, HEADER, MAX_FRAME, MIN_FRAME};
use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

/// Bytes of the length.
const LENGTH: usize = 4;
/// A longer frame is none: the other end speaks something else.
const ABSURD: usize = 1 << 20;

/// How far the stream has been read.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    length: [u8; LENGTH],
    /// Bytes of `length` that are there.
    known: usize,
    /// Bytes of the frame that are in its room; `None` before the first.
    placed: Option<usize>,
    /// Bytes that nobody wants.
    skip: usize,
}

impl Incoming {
    /// Receives a frame behind an empty header. What is known of the next frame's length is taken with it, so that in a
    /// busy stream a frame is one system call.
    pub(super) fn receive(&mut self, mut socket: &UnixStream, room: &mut Buffers) -> io::Result<Option<usize>> {
        loop {
            if self.skip > 0 {
                let mut waste = [0; 4096];
                let most = self.skip.min(waste.len());
                self.skip -= some(socket.read(waste.get_mut(..most).unwrap_or_default())?)?;
            } else if self.known < LENGTH {
                self.known += some(socket.read(self.length.get_mut(self.known..).unwrap_or_default())?)?;
            } else {
                let len = u32::from_be_bytes(self.length) as usize;
                let placed = match self.placed {
                    Some(placed) => placed,
                    None if len > ABSURD => return Err(io::ErrorKind::InvalidData.into()),
                    None if len < MIN_FRAME || HEADER + len > room.len() || !room.write(&[0; HEADER]) => {
                        (self.skip, self.known) = (len, 0);
                        return Ok(None);
                    }
                    None => 0,
                };
                self.placed = Some(placed);
                let missing = len - placed;
                let got = some(room.receive_before(&mut self.length, missing, socket.as_fd())?)?;
                if let Some(next) = got.checked_sub(missing) {
                    (self.known, self.placed) = (next, None);
                    return Ok(Some(HEADER + len));
                }
                self.placed = Some(placed + got);
            }
        }
    }

    /// The room of the frame is gone; its rest is skipped.
    pub(super) fn abandon(&mut self) {
        if let Some(placed) = self.placed.take() {
            self.skip = u32::from_be_bytes(self.length) as usize - placed;
            self.known = 0;
        }
    }
}

/// How far the frame has been sent that is being sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Bytes of the frame and how many are out, with those of the length; `None` between frames.
    frame: Option<(u32, usize)>,
    /// The rest of a frame whose chain is gone; goes out first.
    rest: Vec<u8>,
}

impl Outgoing {
    /// Sends a frame with its virtio header, or, after `WouldBlock`, what is left of it.
    pub(super) fn send(&mut self, mut socket: &UnixStream, frame: &mut Buffers) -> io::Result<()> {
        while !self.rest.is_empty() {
            let n = some(socket.write(&self.rest)?)?;
            self.rest.drain(..n);
        }
        let (len, mut out) = self.frame.unwrap_or_else(|| {
            frame.skip(HEADER);
            (frame.len() as u32, 0)
        });
        let length = len.to_be_bytes();
        while out < LENGTH + len as usize {
            self.frame = Some((len, out));
            out += frame.send_after(length.get(out..).unwrap_or_default(), socket.as_fd())?;
        }
        self.frame = None;
        Ok(())
    }

    /// Keeps what is left of a frame that has begun; `false` if it has not.
    pub(super) fn finish(&mut self, frame: &mut Buffers) -> bool {
        let Some((len, out)) = self.frame.take().filter(|(_, out)| *out > 0) else {
            return false;
        };
        self.rest = len.to_be_bytes().get(out..).unwrap_or_default().to_vec();
        let start = self.rest.len();
        self.rest.resize(start + frame.len().min(MAX_FRAME), 0);
        // As many as there are, so it cannot fail.
        self.rest.get_mut(start..).is_some_and(|rest| frame.read(rest))
    }
}

/// Nothing read is the end of a stream.
fn some(n: usize) -> io::Result<usize> {
    if n == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
