//! The first page of an overlay's file: what the layer is, and which base it belongs to.
use super::super::{Disk, DiskError, raw::Raw};
use std::{io, sync::atomic::AtomicU64};

/// The header's size, and the unit in which the map is written.
pub(super) const PAGE: u64 = 4096;

const MAGIC: &[u8; 16] = b"coracle overlay\n";
const VERSION: u32 = 1;
/// Clusters are so large that the map has at most this many bits (2 MiB).
const MOST_CLUSTERS: u64 = 16 << 20;
/// Clusters of 4 KiB: what a guest's page cache writes, so nothing is copied from the base as a rule.
const SMALLEST_CLUSTER: u32 = 12;
/// No disk is larger, and no sum with offsets overflows.
const LONGEST: u64 = 1 << 60;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Binary logarithm of a cluster's bytes.
    pub(super) shift: u32,
    /// Bytes of the disk.
    pub(super) len: u64,
    /// Bytes of the base.
    pub(super) base_len: u64,
}

impl Header {
    /// The header of a new layer over `base`.
    pub(super) fn for_base(base: &Disk) -> io::Result<Self> {
        let len = base.len();
        if len > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let smallest = len.div_ceil(MOST_CLUSTERS).max(1).next_power_of_two();
        Ok(Self {
            shift: smallest.ilog2().max(SMALLEST_CLUSTER),
            len,
            base_len: len,
        })
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.shift
    }

    fn map_len(&self) -> u64 {
        self.len.div_ceil(self.cluster()).div_ceil(8).next_multiple_of(PAGE)
    }

    /// Where clusters start in the file.
    pub(super) fn data(&self) -> u64 {
        (PAGE + self.map_len()).next_multiple_of(self.cluster())
    }

    /// Makes an empty layer. A file that a crash left before its length was set is completed by [`Header::load`].
    pub(super) fn create(&self, file: &Raw) -> io::Result<()> {
        let mut page = vec![0; PAGE as usize];
        let fields = MAGIC
            .iter()
            .copied()
            .chain(VERSION.to_le_bytes())
            .chain(self.shift.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.base_len.to_le_bytes());
        page.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        file.write_at(&page, 0)?;
        file.set_len(self.data() + self.len)?;
        file.sync()
    }

    /// Reads the header of a layer that exists, which must go with the base that `expected` is made for.
    pub(super) fn load(file: &Raw, expected: &Self) -> Result<Self, DiskError> {
        let wrong = |why: String| DiskError::Overlay {
            path: file.path().to_owned(),
            why,
        };
        let mut page = vec![0; PAGE as usize];
        let header = match file.read_at(&mut page, 0) {
            Ok(()) => Self::parse(&page).map_err(wrong)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(wrong("it is not empty, and no overlay".to_owned()));
            }
            Err(source) => {
                return Err(DiskError::Io {
                    path: file.path().to_owned(),
                    doing: "read the header of",
                    source,
                });
            }
        };
        if header.base_len != expected.base_len {
            let (was, is) = (header.base_len, expected.base_len);
            return Err(wrong(format!(
                "it was made over a base of {was} bytes, and this one has {is}"
            )));
        }
        let whole = header.data() + header.len;
        let grown = file
            .file_len()
            .and_then(|len| if len < whole { file.set_len(whole) } else { Ok(()) });
        grown.map_err(|source| DiskError::Io {
            path: file.path().to_owned(),
            doing: "complete",
            source,
        })?;
        Ok(header)
    }

    fn parse(page: &[u8]) -> Result<Self, String> {
        let four = |at: usize| {
            page.get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u32::from_le_bytes)
        };
        let eight = |at: usize| {
            page.get(at..at + 8)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_le_bytes)
        };
        if !page.starts_with(MAGIC) {
            return Err("it is not empty, and no overlay".to_owned());
        }
        match four(16) {
            Some(VERSION) => {}
            other => return Err(format!("it has version {}, not {VERSION}", other.unwrap_or(0))),
        }
        let (Some(shift @ SMALLEST_CLUSTER..=40), Some(len @ 1..=LONGEST), Some(base_len)) =
            (four(20), eight(24), eight(32))
        else {
            return Err("its header is damaged".to_owned());
        };
        let header = Self { shift, len, base_len };
        if base_len > len || len.div_ceil(header.cluster()) > MOST_CLUSTERS {
            return Err("its header is damaged".to_owned());
        }
        Ok(header)
    }

    /// The map as it is in the file.
    pub(super) fn load_map(&self, file: &Raw) -> io::Result<Box<[AtomicU64]>> {
        let mut bytes = vec![0; self.map_len() as usize];
        file.read_at(&mut bytes, PAGE)?;
        let words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok());
        Ok(words.map(u64::from_le_bytes).map(AtomicU64::new).collect())
    }
}
