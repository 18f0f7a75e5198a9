//! Trees as tar archives, both ways: pax headers where ustar has no room; GNU's long names are read too.
//!
//! An archive is hostile: names are bounded, sizes are counted, and nothing is made outside of the folder that it is
//! unpacked into (`openat2`, `RESOLVE_BENEATH`).
use super::{
    files::about,
    outbox::{Reply, refused},
    place::{Place, absolute},
    vsock,
};
use coracle_protocol::sandbox::{
    Answer,
    file::{Moved, Pack, Unpack},
};
use rustix::fs::OFlags;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
};

mod header;
mod read;
mod write;

/// Archives consist of these.
const BLOCK: usize = 512;

/// Bytes of a name, or of a pax header; more are refused.
const MAX_TEXT: u64 = 64 << 10;

pub(super) fn pack(wish: &Pack) -> Reply {
    absolute(&wish.path)?;
    let place = Place::new(wish.root.as_deref())?;
    let tree = place.look(&wish.path, false).map_err(about("pack", &wish.path))?;
    let name = wish.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let stream = File::from(vsock::stream(wish.stream).map_err(refused("open the stream"))?);
    let mut to = Counting::new(BufWriter::with_capacity(super::files::PIECE, stream));
    let packed = write::Writer::new(&mut to).tree(&tree, name).and_then(|()| to.flush());
    packed.map_err(about("pack", &wish.path))?;
    Ok(Answer::Moved(Moved { bytes: to.count }))
}

pub(super) fn unpack(wish: &Unpack) -> Reply {
    absolute(&wish.path)?;
    let place = Place::new(wish.root.as_deref())?;
    let folder = place
        .open(&wish.path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
        .map_err(about("unpack into", &wish.path))?;
    let stream = File::from(vsock::stream(wish.stream).map_err(refused("open the stream"))?);
    let mut from = Counting::new(BufReader::with_capacity(super::files::PIECE, stream));
    let done = read::unpack(&mut from, folder, wish.owners);
    done.map_err(about("unpack into", &wish.path))?;
    // What follows the end of an archive is padding.
    io::copy(&mut from, &mut io::sink()).map_err(about("unpack into", &wish.path))?;
    Ok(Answer::Moved(Moved { bytes: from.count }))
}

/// Counts the bytes that pass.
struct Counting<S> {
    stream: S,
    count: u64,
}

impl<S> Counting<S> {
    fn new(stream: S) -> Self {
        Self { stream, count: 0 }
    }
}

impl<S: Read> Read for Counting<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.count += count as u64;
        Ok(count)
    }
}

impl<S: Write> Write for Counting<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.stream.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests;
