//! The arm64 Image (`Documentation/arch/arm64/booting.rst`).
use super::{
    BootProtocol, Format, KernelError, KernelImage, ReadAt, Segment, Target,
    bytes::{Image, u64_at},
    check_machine, check_ram, choose,
};

/// Bytes of the image's header.
const HEADER: usize = 64;
/// RAM's start is rounded up to this; `text_offset` counts from there.
const ALIGN: u64 = 2 << 20;
/// Where kernels that do not give their size (before 3.17) go.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// In `flags`: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1;

pub(super) fn parse(image: &Image<'_, impl ReadAt + ?Sized>, target: &Target<'_>) -> Result<KernelImage, KernelError> {
    check_machine("aarch64", target)?;
    let header = image.read(0, HEADER, "the header")?;
    let (text_offset, image_size, flags) = (u64_at(&header, 8), u64_at(&header, 16), u64_at(&header, 24));
    if flags & BIG_ENDIAN != 0 {
        return Err(KernelError::Unsupported(
            "it is big-endian; build it little-endian".into(),
        ));
    }
    let (text_offset, size) = if image_size == 0 {
        (OLD_TEXT_OFFSET, image.len)
    } else {
        (text_offset, image_size.max(image.len))
    };
    let base = target
        .ram
        .first()
        .map_or(0, |ram| ram.start)
        .checked_next_multiple_of(ALIGN);
    let start = base.and_then(|base| base.checked_add(text_offset));
    let (Some(start), Some(end)) = (start, start.and_then(|start| start.checked_add(size))) else {
        return Err(KernelError::Malformed(format!(
            "text_offset is {text_offset:#x}, image_size {image_size:#x}"
        )));
    };
    let span = start..end;
    check_ram(|| "the kernel".into(), &span, target)?;
    Ok(KernelImage {
        format: Format::Arm64Image,
        protocol: choose(vec![BootProtocol::Arm64 { entry: start }], target)?,
        segments: vec![Segment {
            image: 0..image.len,
            at: start,
        }],
        span,
    })
}
