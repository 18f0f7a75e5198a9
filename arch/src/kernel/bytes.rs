//! Bounded reads of an image's headers. Never reads beyond the image, never allocates more than it is asked for.
use super::{Format, KernelError, ReadAt};

/// Offset and bytes of the magic number of a bzImage's setup header.
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Offset and bytes of the magic number of an arm64 Image.
const ARM64_MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// An image and its length.
pub(super) struct Image<'a, R: ?Sized> {
    pub(super) source: &'a R,
    pub(super) len: u64,
}

impl<R: ReadAt + ?Sized> Image<'_, R> {
    /// Reads `len` bytes, after a check that the image has them.
    pub(super) fn read(&self, offset: u64, len: usize, what: &'static str) -> Result<Vec<u8>, KernelError> {
        self.check(offset, len as u64, || what.into())?;
        let mut bytes = vec![0; len];
        self.source
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| KernelError::Read { what, offset, source })?;
        Ok(bytes)
    }

    /// Checks that the image has `len` bytes from `offset` on, and gives their end.
    pub(super) fn check(&self, offset: u64, len: u64, what: impl Fn() -> String) -> Result<u64, KernelError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(end),
            Some(needs) => Err(KernelError::Truncated {
                len: self.len,
                what: what(),
                needs,
            }),
            None => Err(KernelError::Malformed(format!(
                "{} lies at {offset:#x} + {len:#x}",
                what()
            ))),
        }
    }

    /// Tells the format by the magic numbers.
    pub(super) fn format(&self) -> Result<Format, KernelError> {
        let have = self.len.min(0x210) as usize;
        let head = self.read(0, have, "the first bytes")?;
        let has = |(at, magic): (usize, &[u8])| head.get(at..at + magic.len()) == Some(magic);
        if has((0, b"\x7fELF")) {
            Ok(Format::Elf)
        } else if has((0, &[0x1f, 0x8b, 8])) {
            Ok(Format::Gzip)
        } else if has(ARM64_MAGIC) {
            Ok(Format::Arm64Image)
        } else if has(BZIMAGE_MAGIC) {
            Ok(Format::BzImage)
        } else {
            Err(KernelError::Unknown {
                head: head.get(..8).unwrap_or(&head).to_vec(),
            })
        }
    }
}

/// The little-endian number at `at`; 0 beyond the end, which the callers' fixed-size reads rule out.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

/// As [`u16_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// As [`u16_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}
