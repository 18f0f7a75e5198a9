//! The bzImage of Linux on x86 (`Documentation/arch/x86/boot.rst`), entered by the 64-bit boot protocol: the kernel
//! unpacks itself.
use super::{
    BootProtocol, Format, KernelError, KernelImage, ReadAt, Segment, Target,
    bytes::{Image, u16_at, u32_at, u64_at},
    check_machine, check_ram, choose,
};

/// Where the setup header begins in the image.
const HEADER: u64 = 0x1f1;
/// Bytes of the setup header up to and including `handover_offset`, which protocol 2.12 has.
const HEADER_LEN: usize = 0x268 - 0x1f1;
/// The first protocol version with the 64-bit entry point and `xloadflags`.
const VERSION: u16 = 0x20c;
/// In `xloadflags`: the kernel has a 64-bit entry point at [`ENTRY_64`].
const XLF_KERNEL_64: u16 = 1;
/// From the loaded kernel's first byte to its 64-bit entry point.
const ENTRY_64: u64 = 0x200;
/// In `loadflags`: the protected-mode code goes to 1 MiB or above.
const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

pub(super) fn parse(image: &Image<'_, impl ReadAt + ?Sized>, target: &Target<'_>) -> Result<KernelImage, KernelError> {
    check_machine("x86_64", target)?;
    let fixed = image.read(HEADER, HEADER_LEN, "the setup header")?;
    let field = |offset: usize| offset - HEADER as usize;
    let byte = |offset: usize| fixed.get(field(offset)).copied().unwrap_or_default();
    let version = u16_at(&fixed, field(0x206));
    if u16_at(&fixed, field(0x1fe)) != 0xaa55 {
        return Err(KernelError::Malformed(
            "its setup header has no boot flag 0xaa55".into(),
        ));
    }
    if version < VERSION {
        return Err(KernelError::Unsupported(format!(
            "its boot protocol is {}.{:02}, the 64-bit entry point needs 2.12 (Linux 3.8); use a newer kernel",
            version >> 8,
            version & 0xff
        )));
    }
    if u16_at(&fixed, field(0x236)) & XLF_KERNEL_64 == 0 || byte(0x211) & LOADED_HIGH == 0 {
        return Err(KernelError::Unsupported(
            "it has no 64-bit entry point; use a 64-bit kernel".into(),
        ));
    }
    // The jump at 0x200 leads over the header, so its operand is the header's length.
    let header_len = usize::from(byte(0x201)) + 0x202 - HEADER as usize;
    let setup_header = image.read(HEADER, header_len.max(HEADER_LEN), "the setup header")?;
    let setup_sectors = if byte(0x1f1) == 0 { 4 } else { u64::from(byte(0x1f1)) };
    let payload = (setup_sectors + 1) * SECTOR;
    // `syssize`, in paragraphs of 16 bytes; the last may be short.
    let needs = payload + u64::from(u32_at(&fixed, field(0x1f4))).saturating_sub(1) * 16;
    if image.len <= payload || image.len < needs {
        return Err(KernelError::Truncated {
            len: image.len,
            what: "the kernel proper".into(),
            needs,
        });
    }
    let (pref_address, init_size) = (u64_at(&fixed, field(0x258)), u32_at(&fixed, field(0x260)));
    let bytes = image.len - payload;
    let Some(end) = pref_address.checked_add(bytes.max(init_size.into())) else {
        return Err(KernelError::Malformed(format!(
            "it wants to be loaded at {pref_address:#x}"
        )));
    };
    if pref_address < MIB {
        return Err(KernelError::Low {
            what: "the kernel".into(),
            start: pref_address,
        });
    }
    let span = pref_address..end;
    check_ram(
        || "the kernel, with the memory in which it unpacks itself,".into(),
        &span,
        target,
    )?;
    let protocol = BootProtocol::Linux64 {
        entry: pref_address + ENTRY_64,
        setup_header: Some(setup_header),
    };
    Ok(KernelImage {
        format: Format::BzImage,
        protocol: choose(vec![protocol], target)?,
        segments: vec![Segment {
            image: payload..image.len,
            at: pref_address,
        }],
        span,
    })
}
