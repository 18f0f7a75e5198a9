//! One request to a disk, from its header to its status (Virtio 1.2 §5.2.6). Knows no ring and no event loop.
use super::{MAX_RANGE_SECTORS, MAX_RANGES, field};
use crate::virtio::{
    chain::Chain,
    config_space::ConfigSpace,
    disk::{Disk, SECTOR},
    memory::{Buffers, LastByte},
    queue::RingError,
};
use std::{fmt, io, ops::Range, sync::Arc};

/// How a request ended, as its last byte says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Not done: the storage failed, or the driver asked for what cannot be.
    IoError = 1,
    /// The device does not know the request.
    Unsupported = 2,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sectors into memory.
    Read,
    /// Memory to sectors.
    Write,
    /// What was written shall last.
    Flush,
    /// The serial number.
    GetId,
    /// Ranges that are no longer needed.
    Discard,
    /// Ranges that shall be zero.
    WriteZeroes,
    /// Anything else.
    Unknown(u32),
}

impl From<u32> for Kind {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            4 => Self::Flush,
            8 => Self::GetId,
            11 => Self::Discard,
            13 => Self::WriteZeroes,
            other => Self::Unknown(other),
        }
    }
}

/// A request whose header was read, once; the data is what is left in its chain.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub kind: Kind,
    /// The first sector, for reads and writes.
    pub sector: u64,
    status: LastByte,
    /// Whether the header was whole.
    whole: bool,
}

/// Bytes of the header.
const HEADER: usize = 16;
/// Bytes of the serial number.
const ID: usize = 20;
/// Bytes of a range of discard and write-zeroes.
const RANGE: usize = 16;
/// The only flag of a range: its space may be given back (write-zeroes).
const UNMAP: u32 = 1;

impl Request {
    /// Takes header and status off a chain.
    ///
    /// # Errors
    /// There is no room for a status, so nothing can be said.
    pub fn parse(chain: &mut Chain) -> Result<Self, RingError> {
        let status = chain
            .writable
            .split_last_byte()
            .ok_or(RingError::Protocol("a request to a disk has no room for its status"))?;
        let mut header = [0; HEADER];
        let whole = chain.readable.read(&mut header);
        let header = u128::from_le_bytes(header);
        Ok(Self {
            kind: (header as u32).into(),
            sector: (header >> 64) as u64,
            status,
            whole,
        })
    }

    /// Bytes of data, for the rate limiter.
    pub fn bytes(&self, chain: &Chain) -> u64 {
        match self.kind {
            Kind::Read => chain.writable.len() as u64,
            Kind::Write => chain.readable.len() as u64,
            _ => 0,
        }
    }

    /// Writes the status and gives the bytes that the chain goes back with: `data` of the request's, if all is well.
    ///
    /// The status lies behind the data, so bytes of a failed read count as not written (§2.7.8.2).
    pub fn finish(&self, status: Status, data: usize, room: usize) -> u32 {
        self.status.set(status as u8);
        let written = if data == room { data + 1 } else { data };
        u32::try_from(written).unwrap_or(u32::MAX)
    }
}

/// When writes go to stable storage by themselves.
#[derive(Debug, Clone)]
pub enum WriteThrough {
    /// Flushes do that, or nobody.
    Never,
    /// With every write.
    Always,
    /// As the driver says in the configuration's `writeback`.
    By(Arc<ConfigSpace>),
}

impl WriteThrough {
    /// Whether the write that is being done goes through.
    pub fn is_on(&self) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::By(config) => config.get(field::WRITEBACK) == [0],
        }
    }
}

/// The disk that requests are about, as the running driver negotiated it.
#[derive(Debug)]
pub struct Target {
    /// The bytes.
    pub disk: Arc<Disk>,
    /// The serial number.
    pub id: String,
    /// Whether flushes reach storage.
    pub cached: bool,
    /// Whether writes do.
    pub write_through: WriteThrough,
    /// Whether the driver may give blocks back.
    pub discard: bool,
    /// Whether the driver may have blocks zeroed.
    pub write_zeroes: bool,
    /// An error of the storage was logged for this driver.
    pub reported: bool,
}

/// Why a request fails.
#[derive(Debug)]
pub enum Failure {
    /// The driver's fault, or a refusal by rule: no word about it.
    Refused(Status),
    /// The storage's.
    Storage(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Storage(error)
    }
}

const IO_ERROR: Failure = Failure::Refused(Status::IoError);
const UNSUPPORTED: Failure = Failure::Refused(Status::Unsupported);

impl Target {
    /// Does a request at once. Gives the bytes that its chain goes back with.
    pub fn serve(&mut self, request: &Request, chain: &mut Chain) -> u32 {
        let room = chain.writable.len();
        match self.execute(request, chain) {
            Ok(()) => request.finish(Status::Ok, room - chain.writable.len(), room),
            Err(failure) => request.finish(self.explain(request, failure), 0, room),
        }
    }

    /// The status of a failure, which is logged if it is the storage's and the first one.
    pub fn explain(&mut self, request: &Request, failure: Failure) -> Status {
        match failure {
            Failure::Refused(status) => status,
            Failure::Storage(error) => {
                if !std::mem::replace(&mut self.reported, true) {
                    let Self { id, .. } = self;
                    log::warn!(
                        "drive {id}: {request} fails: {error}; the guest sees an I/O error, as it does if this happens again"
                    );
                }
                Status::IoError
            }
        }
    }

    fn execute(&self, request: &Request, chain: &mut Chain) -> Result<(), Failure> {
        if !request.whole {
            return Err(IO_ERROR);
        }
        match request.kind {
            Kind::Read | Kind::Write => {
                let place = self.place(request, chain)?;
                if request.kind == Kind::Read {
                    return Ok(self.disk.read(&mut chain.writable, place.start)?);
                }
                self.disk.write(&mut chain.readable, place.start)?;
                Ok(self.settle()?)
            }
            Kind::Flush if self.cached => Ok(self.disk.sync()?),
            Kind::Flush => Ok(()),
            Kind::GetId => self.get_id(&mut chain.writable),
            Kind::Discard if self.discard => self.ranges(&mut chain.readable, |disk, range, flags| {
                // §5.2.6.2: the flag has no meaning here.
                if flags != 0 {
                    return Err(UNSUPPORTED);
                }
                Ok(disk.discard(range)?)
            }),
            Kind::WriteZeroes if self.write_zeroes => self.ranges(&mut chain.readable, |disk, range, flags| {
                if flags & !UNMAP != 0 {
                    return Err(UNSUPPORTED);
                }
                Ok(disk.write_zeroes(range, self.discard && flags & UNMAP != 0)?)
            }),
            Kind::Discard | Kind::WriteZeroes | Kind::Unknown(_) => Err(UNSUPPORTED),
        }
    }

    /// Where a read or a write goes: whole sectors, within the disk, writable if need be, and at least one.
    pub fn place(&self, request: &Request, chain: &Chain) -> Result<Range<u64>, Failure> {
        let (len, allowed) = match request.kind {
            Kind::Read => (chain.writable.len() as u64, request.whole),
            // Also if the driver did not accept the feature that says so.
            _ => (chain.readable.len() as u64, request.whole && !self.disk.is_read_only()),
        };
        let range = self.checked(request.sector, len)?;
        if allowed && len > 0 { Ok(range) } else { Err(IO_ERROR) }
    }

    fn checked(&self, sector: u64, len: u64) -> Result<Range<u64>, Failure> {
        let start = sector.checked_mul(SECTOR).ok_or(IO_ERROR)?;
        let end = start.checked_add(len).ok_or(IO_ERROR)?;
        let fits = end <= self.disk.len() && len.is_multiple_of(SECTOR);
        if fits { Ok(start..end) } else { Err(IO_ERROR) }
    }

    fn get_id(&self, to: &mut Buffers) -> Result<(), Failure> {
        let mut id = [0; ID];
        id.iter_mut().zip(self.id.bytes()).for_each(|(to, from)| *to = from);
        if to.write(&id) { Ok(()) } else { Err(IO_ERROR) }
    }

    /// Does `change` to all ranges of a request, if all are right.
    fn ranges(
        &self,
        from: &mut Buffers,
        change: impl Fn(&Disk, Range<u64>, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let count = from.len() / RANGE;
        if self.disk.is_read_only() || count == 0 || count > MAX_RANGES as usize || !from.len().is_multiple_of(RANGE) {
            return Err(IO_ERROR);
        }
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            let mut raw = [0; RANGE];
            if !from.read(&mut raw) {
                return Err(IO_ERROR);
            }
            let raw = u128::from_le_bytes(raw);
            let (sector, sectors, flags) = (raw as u64, (raw >> 64) as u32, (raw >> 96) as u32);
            if sectors > MAX_RANGE_SECTORS {
                return Err(IO_ERROR);
            }
            all.push((self.checked(sector, u64::from(sectors) * SECTOR)?, flags));
        }
        for (range, flags) in all {
            change(&self.disk, range, flags)?;
        }
        Ok(self.settle()?)
    }

    /// Ends a change of the disk.
    fn settle(&self) -> io::Result<()> {
        if self.write_through.is_on() {
            self.disk.sync()
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Read => write!(f, "a read at sector {}", self.sector),
            Kind::Write => write!(f, "a write at sector {}", self.sector),
            other => write!(f, "a request ({other:?})"),
        }
    }
}

#[cfg(test)]
mod tests;
