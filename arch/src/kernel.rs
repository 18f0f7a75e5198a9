//! Kernel images: what format they are, where their bytes go and how they are entered. Pure: no guest memory, no KVM.
//!
//! Runs on the thread that builds the VM. An image is hostile: every number in it is checked against the image's length
//! and guest RAM before use, tables have a fixed largest size, and no allocation is larger than a constant or the
//! caller's limit.
use std::{
    fmt,
    io::{self, Read},
    ops::Range,
};

mod arm64;
mod bytes;
mod bzimage;
mod elf;
#[cfg(test)]
mod tests;

use bytes::Image;

/// How a kernel is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootProtocol {
    /// The 64-bit boot protocol of Linux on x86 (`Documentation/arch/x86/boot.rst`).
    Linux64 {
        /// Guest-physical entry point.
        entry: u64,
        /// The setup header of a bzImage, bytes 0x1f1 on of the image; absent for an ELF image.
        setup_header: Option<Vec<u8>>,
    },
    /// Xen's PVH (`xen/include/public/arch-x86/hvm/start_info.h`).
    Pvh {
        /// Guest-physical 32-bit entry point.
        entry: u32,
    },
    /// The arm64 boot protocol (`Documentation/arch/arm64/booting.rst`).
    Arm64 {
        /// Guest-physical entry point.
        entry: u64,
    },
}

impl BootProtocol {
    /// Which protocol this is, without its data.
    pub fn kind(&self) -> Protocol {
        match self {
            BootProtocol::Linux64 { .. } => Protocol::Linux64,
            BootProtocol::Pvh { .. } => Protocol::Pvh,
            BootProtocol::Arm64 { .. } => Protocol::Arm64,
        }
    }
}

/// The name of a boot protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// [`BootProtocol::Linux64`].
    Linux64,
    /// [`BootProtocol::Pvh`].
    Pvh,
    /// [`BootProtocol::Arm64`].
    Arm64,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Linux64 => "the 64-bit Linux protocol",
            Protocol::Pvh => "PVH",
            Protocol::Arm64 => "the arm64 Linux protocol",
        })
    }
}

/// Bytes of the image and where they go. Guest RAM is zero before, so what no segment covers is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Bytes within the image.
    pub image: Range<u64>,
    /// Guest-physical address of the first byte.
    pub at: u64,
}

/// Read access to an image, at any offset. Reads beyond the end fail.
pub trait ReadAt {
    /// Fills `buf` from `offset` on.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }
}

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An ELF64 executable for x86-64.
    Elf,
    /// A Linux bzImage for x86-64.
    BzImage,
    /// A Linux Image for arm64.
    Arm64Image,
    /// Compressed by gzip: [`decompress`] it and parse what comes out.
    Gzip,
}

/// What the caller knows about the machine and wants of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The architecture, as [`crate::Arch::NAME`].
    pub machine: &'a str,
    /// Guest RAM, sorted, as [`crate::Arch::memory_ranges`] gives it.
    pub ram: &'a [Range<u64>],
    /// The protocol to boot by; `None` takes the best that the kernel offers.
    pub protocol: Option<Protocol>,
}

/// A kernel that fits the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// What the image is.
    pub format: Format,
    /// How to enter it.
    pub protocol: BootProtocol,
    /// What goes into guest memory, sorted by guest address, without overlap.
    pub segments: Vec<Segment>,
    /// Guest-physical bytes that the kernel occupies at its start, memory beyond its image (BSS, heap) included.
    pub span: Range<u64>,
}

impl KernelImage {
    /// End of the kernel in guest memory, exclusive.
    pub fn end(&self) -> u64 {
        self.span.end
    }
}

/// Why an image cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The image could not be read.
    #[error("cannot read {what} of the kernel image at offset {offset:#x}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// Where in the image.
        offset: u64,
        /// The answer of the file.
        source: io::Error,
    },
    /// None of the known formats.
    #[error(
        "the file is no kernel: it begins with {head:02x?}, which is neither an ELF vmlinux, nor a bzImage, nor an arm64 \
         Image, nor one of these compressed by gzip; give the path of a kernel image, as /boot/vmlinuz"
    )]
    Unknown {
        /// The first bytes.
        head: Vec<u8>,
    },
    /// The image stops before something that it announces.
    #[error("the kernel image ends at byte {len:#x}, but {what} needs {needs:#x}; it is truncated: get it again")]
    Truncated {
        /// Length of the image.
        len: u64,
        /// What is cut off.
        what: String,
        /// End of what is cut off.
        needs: u64,
    },
    /// A header contradicts itself or the format.
    #[error("the kernel image is damaged: {0}; get it again, or rebuild it")]
    Malformed(String),
    /// An image that is what it should be, but of a sort that cannot be booted here.
    #[error("this kernel cannot be booted: {0}")]
    Unsupported(String),
    /// The image was built for another architecture.
    #[error("the kernel is built for {image}, this machine runs {machine}; use a kernel for {machine}")]
    Machine {
        /// Architecture of the image.
        image: String,
        /// Architecture of the machine.
        machine: String,
    },
    /// The protocol that was asked for is not among those offered.
    #[error("the kernel does not offer {wish}, only {offered}; leave the protocol open, or use another kernel")]
    Protocol {
        /// The protocol that was asked for.
        wish: Protocol,
        /// What the kernel offers.
        offered: String,
    },
    /// The kernel does not fit into guest RAM.
    #[error("{what} goes to {start:#x}..{end:#x}, which is not all RAM: {ram}; give the guest more memory")]
    OutsideRam {
        /// What does not fit.
        what: String,
        /// First guest address.
        start: u64,
        /// End, exclusive.
        end: u64,
        /// The RAM there is.
        ram: String,
    },
    /// The kernel wants memory that the boot parameters are in.
    #[error(
        "{what} goes to {start:#x}, but the first MiB holds the boot parameters; link the kernel at 1 MiB or above"
    )]
    Low {
        /// What is too low.
        what: String,
        /// Its guest address.
        start: u64,
    },
    /// The image is compressed as a whole.
    #[error("the kernel image is compressed by gzip; decompress it first")]
    Compressed,
    /// The image cannot be decompressed.
    #[error("cannot decompress the kernel image; it is damaged or truncated: get it again")]
    Decompress {
        /// The decompressor's answer.
        source: io::Error,
    },
    /// The image grows beyond the limit.
    #[error(
        "the decompressed kernel is larger than {limit} bytes; give the guest more memory, or use a smaller kernel"
    )]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

/// Tells what an image of `len` bytes is by its first bytes.
///
/// # Errors
/// [`KernelError::Unknown`] where it is nothing known, [`KernelError::Read`] where it cannot be read.
pub fn format(image: &(impl ReadAt + ?Sized), len: u64) -> Result<Format, KernelError> {
    Image { source: image, len }.format()
}

/// Finds out how to load and enter the kernel in `image`, which has `len` bytes.
///
/// # Errors
/// Every [`KernelError`] but those of [`decompress`]; each names what is wrong and the way out.
pub fn parse(image: &(impl ReadAt + ?Sized), len: u64, target: &Target<'_>) -> Result<KernelImage, KernelError> {
    let image = Image { source: image, len };
    match image.format()? {
        Format::Elf => elf::parse(&image, target),
        Format::BzImage => bzimage::parse(&image, target),
        Format::Arm64Image => arm64::parse(&image, target),
        Format::Gzip => Err(KernelError::Compressed),
    }
}

/// Decompresses an image that [`format`](fn@format) calls [`Format::Gzip`], to at most `limit` bytes.
///
/// # Errors
/// [`KernelError::Decompress`] for a damaged stream, [`KernelError::TooLarge`] beyond the limit.
pub fn decompress(reader: impl Read, limit: u64) -> Result<Vec<u8>, KernelError> {
    let mut bytes = Vec::new();
    let mut bounded = flate2::read::GzDecoder::new(reader).take(limit.saturating_add(1));
    bounded
        .read_to_end(&mut bytes)
        .map_err(|source| KernelError::Decompress { source })?;
    if bytes.len() as u64 > limit {
        Err(KernelError::TooLarge { limit })
    } else {
        Ok(bytes)
    }
}

/// Refuses an image for `image` on another machine.
fn check_machine(image: &str, target: &Target<'_>) -> Result<(), KernelError> {
    if image == target.machine {
        return Ok(());
    }
    Err(KernelError::Machine {
        image: image.into(),
        machine: target.machine.into(),
    })
}

/// Refuses guest-physical bytes that are not wholly in one range of RAM.
fn check_ram(what: impl Fn() -> String, range: &Range<u64>, target: &Target<'_>) -> Result<(), KernelError> {
    if target
        .ram
        .iter()
        .any(|ram| ram.start <= range.start && range.end <= ram.end)
    {
        return Ok(());
    }
    let ram: Vec<String> = target
        .ram
        .iter()
        .map(|ram| format!("{:#x}..{:#x}", ram.start, ram.end))
        .collect();
    Err(KernelError::OutsideRam {
        what: what(),
        start: range.start,
        end: range.end,
        ram: ram.join(", "),
    })
}

/// Takes the protocol that was asked for, else the first offered.
fn choose(mut offered: Vec<BootProtocol>, target: &Target<'_>) -> Result<BootProtocol, KernelError> {
    let names: Vec<String> = offered.iter().map(|protocol| protocol.kind().to_string()).collect();
    let at = match target.protocol {
        None => 0,
        Some(wish) => offered
            .iter()
            .position(|protocol| protocol.kind() == wish)
            .ok_or_else(|| KernelError::Protocol {
                wish,
                offered: names.join(" and "),
            })?,
    };
    if at < offered.len() {
        return Ok(offered.swap_remove(at));
    }
    Err(KernelError::Unsupported(
        "it has no entry point that coracle can use; use a Linux kernel".into(),
    ))
}
