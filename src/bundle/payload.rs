//! What a bzImage carries: the kernel as an ELF file, compressed.
//!
//! Pure functions on bytes, except that xz and the rarer formats are left to the `xz` family of programs, whose
//! filters no lean crate covers. Output is bounded by [`MAX_SIZE`].
use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
    thread,
};

/// Bytes that a decompressed kernel or module may have.
pub const MAX_SIZE: usize = 512 << 20;

/// Why there is no ELF kernel to be had from an image.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The bytes are no bzImage.
    #[error("the file is no bzImage of boot protocol 2.08 or later: give the `vmlinuz` of an x86_64 kernel")]
    NoBzImage,
    /// The setup header points outside of the file.
    #[error("the image is cut short: its header promises {promised} bytes, it has {size}; fetch it again")]
    Truncated {
        /// Where the payload would end.
        promised: u64,
        /// Bytes of the file.
        size: usize,
    },
    /// No known compression.
    #[error(
        "the data is compressed in a way that is not known here (it begins with {0:02x?}); known are gzip, lz4, zstd, xz, bzip2 and lzma"
    )]
    UnknownFormat(Vec<u8>),
    /// Decompression failed.
    #[error("the {format} data is broken: {wrong}")]
    Broken {
        /// The compression.
        format: &'static str,
        /// What is wrong.
        wrong: String,
    },
    /// A program is missing.
    #[error("the data is compressed with {0}, and there is no program `{0}` to undo it: install it")]
    Program(&'static str, #[source] io::Error),
    /// More than is sane.
    #[error("the data unpacks to more than {MAX_SIZE} bytes")]
    TooLarge,
    /// It unpacks, but to something else.
    #[error("the image does not hold an ELF kernel")]
    NoElf,
}

/// The ELF kernel in a bzImage (`Documentation/arch/x86/boot.rst`, "payload_offset").
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>, PayloadError> {
    if image.get(0x202..0x206) != Some(b"HdrS") || word::<2>(image, 0x206).is_none_or(|version| version < 0x0208) {
        return Err(PayloadError::NoBzImage);
    }
    let field = |at| word::<4>(image, at).ok_or(PayloadError::NoBzImage);
    // Zero stands for four, for kernels of the last century.
    let sectors = match word::<1>(image, 0x1f1).ok_or(PayloadError::NoBzImage)? {
        0 => 4,
        sectors => sectors,
    };
    let start = (sectors + 1) * 512 + field(0x248)?;
    let end = start + field(0x24c)?;
    let payload = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let payload = payload.and_then(|(start, end)| image.get(start..end));
    let payload = payload.ok_or(PayloadError::Truncated {
        promised: end,
        size: image.len(),
    })?;
    let kernel = if payload.starts_with(b"\x7fELF") {
        payload.to_vec()
    } else {
        decompress(payload)?
    };
    if kernel.starts_with(b"\x7fELF") {
        Ok(kernel)
    } else {
        Err(PayloadError::NoElf)
    }
}

/// Undoes whichever compression the data begins with. The kernel's build appends the size; that may follow.
pub fn decompress(data: &[u8]) -> Result<Vec<u8>, PayloadError> {
    match data {
        [0x1f, 0x8b, ..] => bounded("gzip", flate2::bufread::GzDecoder::new(data)),
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_legacy(rest),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(data).map_err(|e| broken("zstd", e))?;
            bounded("zstd", decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => program("xz", &["--single-stream"], data),
        [b'B', b'Z', b'h', ..] => program("bzip2", &[], data),
        [0x5d, 0, 0, ..] => program("xz", &["--format=lzma"], data),
        _ => Err(PayloadError::UnknownFormat(data.iter().take(8).copied().collect())),
    }
}

fn broken(format: &'static str, wrong: impl ToString) -> PayloadError {
    PayloadError::Broken {
        format,
        wrong: wrong.to_string(),
    }
}

/// Reads a decoder to its end, which is the end of the first compressed stream.
fn bounded(format: &'static str, decoder: impl Read) -> Result<Vec<u8>, PayloadError> {
    let mut output = Vec::new();
    let limit = MAX_SIZE as u64 + 1;
    decoder
        .take(limit)
        .read_to_end(&mut output)
        .map_err(|e| broken(format, e))?;
    if output.len() > MAX_SIZE {
        Err(PayloadError::TooLarge)
    } else {
        Ok(output)
    }
}

/// The legacy frame of lz4: blocks of `[u32 compressed size][data]`, each at most 8 MiB unpacked.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, PayloadError> {
    const BLOCK: usize = 8 << 20;
    let mut output = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size);
        // What looks like a block's size may be the kernel's unpacked size, the last word of all.
        if after.is_empty() && size as usize == output.len() {
            return Ok(output);
        }
        // Frames may be joined.
        if size == 0x184c_2102 {
            rest = after;
            continue;
        }
        let data = after.get(..size as usize);
        let data = data.ok_or_else(|| broken("lz4", "a block ends beyond the data"))?;
        let length = lz4_flex::block::decompress_into(data, &mut block).map_err(|e| broken("lz4", e))?;
        if output.len() + length > MAX_SIZE {
            return Err(PayloadError::TooLarge);
        }
        output.extend_from_slice(block.get(..length).unwrap_or_default());
        rest = after.get(size as usize..).unwrap_or_default();
    }
    if output.is_empty() || !rest.is_empty() {
        return Err(broken("lz4", "it ends within a block"));
    }
    Ok(output)
}

/// Leaves the work to a program that reads standard input. Data after the stream makes it complain at the end.
fn program(name: &'static str, options: &[&str], data: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let command = Command::new(name)
        .args(["--decompress", "--stdout", "--quiet"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = command.map_err(|e| PayloadError::Program(name, e))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let unpacked = thread::scope(|threads| {
        // The program may stop reading before the end; what it says is what counts.
        threads.spawn(move || input.map(|mut input| input.write_all(data)));
        output.map_or_else(|| Ok(Vec::new()), |output| bounded(name, output))
    });
    if unpacked.is_err() {
        let _ = child.kill();
    }
    let _ = child.wait();
    let unpacked = unpacked?;
    if unpacked.is_empty() {
        return Err(broken(name, "nothing could be unpacked"));
    }
    Ok(unpacked)
}

/// A little-endian number of `N` bytes, at most 8.
fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut value = [0; 8];
    value.get_mut(..N)?.copy_from_slice(bytes.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(value))
}

#[cfg(test)]
pub(crate) mod tests;
