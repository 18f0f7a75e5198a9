//! A disk made of several files or devices: one after the other, or striped over them.
use super::{DiskError, SECTOR, raw::Raw};
use crate::virtio::memory::Buffers;
use std::{io, iter, ops::Range};

/// How members share the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Each begins where the one before ends. Only the last can grow.
    Concatenated,
    /// Pieces of this many bytes, a power of two of at least a page, go to the members in turn. What a member has beyond
    /// the smallest one is not used.
    Striped(u64),
}

/// Several files, presented as one.
#[derive(Debug)]
pub struct Aggregate {
    members: Vec<Raw>,
    layout: Layout,
    /// Where each member starts, if they are concatenated.
    starts: Vec<u64>,
}

/// A run of bytes that lies in one member.
struct Piece<'a> {
    member: &'a Raw,
    at: u64,
    len: u64,
}

impl Aggregate {
    /// Puts members together.
    ///
    /// # Errors
    /// A member that is too small for a stripe.
    pub fn new(members: Vec<Raw>, layout: Layout) -> Result<Self, DiskError> {
        if let Layout::Striped(chunk) = layout
            && let Some(small) = members.iter().find(|member| member.len() < chunk)
        {
            return Err(DiskError::Stripe(small.path().to_owned()));
        }
        let starts = members.iter().scan(0, |next, member| {
            let start = *next;
            *next += member.len();
            Some(start)
        });
        Ok(Self {
            starts: starts.collect(),
            members,
            layout,
        })
    }

    /// See [`super::Disk::len`].
    pub fn len(&self) -> u64 {
        match self.layout {
            Layout::Concatenated => {
                let last = self.starts.last().copied().unwrap_or(0);
                last + self.members.last().map_or(0, Raw::len)
            }
            Layout::Striped(chunk) => {
                let shortest = self.members.iter().map(Raw::len).min().unwrap_or(0);
                (shortest - shortest % chunk) * self.members.len() as u64
            }
        }
    }

    /// See [`super::Disk::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// See [`super::Disk::block_size`].
    pub fn block_size(&self) -> u32 {
        let sizes = self.members.iter().map(Raw::block_size);
        sizes.max().unwrap_or(SECTOR as u32)
    }

    /// See [`super::Disk::is_read_only`].
    pub fn is_read_only(&self) -> bool {
        self.members.iter().any(Raw::is_read_only)
    }

    /// See [`super::Disk::refresh`].
    ///
    /// # Errors
    /// A length cannot be told.
    pub fn refresh(&self) -> io::Result<u64> {
        let grow = match self.layout {
            Layout::Concatenated => self.members.len().saturating_sub(1),
            Layout::Striped(_) => 0,
        };
        self.members
            .iter()
            .skip(grow)
            .try_for_each(|member| member.refresh().map(drop))?;
        Ok(self.len())
    }

    /// See [`super::Disk::read`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn read(&self, to: &mut Buffers, offset: u64) -> io::Result<()> {
        self.transfer(to, offset, Raw::read)
    }

    /// See [`super::Disk::write`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn write(&self, from: &mut Buffers, offset: u64) -> io::Result<()> {
        self.transfer(from, offset, Raw::write)
    }

    /// See [`super::Disk::read_at`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        let mut rest = to;
        for piece in self.pieces(offset..offset.saturating_add(rest.len() as u64)) {
            let piece = piece?;
            let (now, later) = rest.split_at_mut(piece.len as usize);
            piece.member.read_at(now, piece.at)?;
            rest = later;
        }
        Ok(())
    }

    /// See [`super::Disk::sync`].
    ///
    /// # Errors
    /// What the storage says; the other members are tried all the same.
    pub fn sync(&self) -> io::Result<()> {
        self.members.iter().map(Raw::sync).fold(Ok(()), io::Result::and)
    }

    /// See [`super::Disk::discard`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.pieces(range).try_for_each(|piece| {
            let Piece { member, at, len } = piece?;
            member.discard(at..at + len)
        })
    }

    /// See [`super::Disk::write_zeroes`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        self.pieces(range).try_for_each(|piece| {
            let Piece { member, at, len } = piece?;
            member.write_zeroes(at..at + len, unmap)
        })
    }

    fn transfer(
        &self,
        buffers: &mut Buffers,
        offset: u64,
        call: impl Fn(&Raw, &mut Buffers, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for piece in self.pieces(offset..offset.saturating_add(buffers.len() as u64)) {
            let piece = piece?;
            let rest = buffers.split_at(piece.len as usize).unwrap_or_default();
            call(piece.member, buffers, piece.at)?;
            *buffers = rest;
        }
        Ok(())
    }

    /// The members' parts of a range, in its order.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = io::Result<Piece<'_>>> {
        let mut at = range.start;
        iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let piece = self.piece(at, range.end - at);
            // After an error there is nothing more.
            at = piece.as_ref().map_or(range.end, |piece| at + piece.len);
            Some(piece.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
        })
    }

    /// The piece that starts at `at`.
    fn piece(&self, at: u64, wanted: u64) -> Option<Piece<'_>> {
        let (index, within, room) = match self.layout {
            Layout::Concatenated => {
                let index = self.starts.partition_point(|start| *start <= at).checked_sub(1)?;
                let within = at - self.starts.get(index)?;
                let end = match self.starts.get(index + 1) {
                    Some(next) => next - self.starts.get(index)?,
                    None => self.members.get(index)?.len(),
                };
                (index, within, end.checked_sub(within)?)
            }
            Layout::Striped(chunk) => {
                let (stripe, skip) = (at / chunk, at % chunk);
                let count = self.members.len() as u64;
                let room = (chunk - skip).min(self.len().checked_sub(at)?);
                ((stripe % count) as usize, stripe / count * chunk + skip, room)
            }
        };
        (room > 0).then_some(Piece {
            member: self.members.get(index)?,
            at: within,
            len: wanted.min(room),
        })
    }
}

#[cfg(test)]
mod tests;
