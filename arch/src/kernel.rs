//! Kernel images: what format they are, where their bytes go and how they are entered. Pure: no guest memory, no KVM.
use std::{io, ops::Range};

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
