//! ELF64 executables for x86-64: Linux's vmlinux and whatever has a PVH entry point.
//!
//! A vmlinux has many megabytes of zeros inside its loadable segments: padding between sections, and empty sections that
//! are in front of a full one. Only what the section headers call content becomes a [`Segment`].
use super::{
    BootProtocol, Format, KernelError, KernelImage, ReadAt, Segment, Target,
    bytes::{Image, u16_at, u32_at, u64_at},
    check_machine, check_ram, choose,
};
use std::ops::Range;

mod sections;

const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
/// Most program headers that are looked at; a vmlinux has about 5.
const MAX_PROGRAM_HEADERS: u16 = 128;
/// Most bytes of notes that are looked at; a vmlinux has about 500.
const MAX_NOTES: u64 = 64 << 10;
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` in `xen/include/public/elfnote.h`.
const XEN_PHYS32_ENTRY: u32 = 18;
/// Below are the boot parameters.
const LOWEST: u64 = 1 << 20;

/// The part of a program header that counts.
#[derive(Debug, Clone)]
struct Program {
    /// Bytes within the image.
    image: Range<u64>,
    /// Guest-physical address of the first byte.
    at: u64,
    /// End in guest memory, exclusive, zeroed memory included.
    end: u64,
}

/// What the notes say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Notes {
    /// The PVH entry point.
    pvh: Option<u32>,
    /// There is a note by Linux: `e_entry` is its 64-bit entry point.
    linux: bool,
}

pub(super) fn parse(image: &Image<'_, impl ReadAt + ?Sized>, target: &Target<'_>) -> Result<KernelImage, KernelError> {
    let header = image.read(0, HEADER_LEN, "the ELF header")?;
    check_header(&header, target)?;
    let (mut programs, notes) = read_programs(image, &header)?;
    programs.sort_by_key(|program| program.at);
    for (index, program) in programs.iter().enumerate() {
        let what = || format!("segment {index} of the kernel");
        if program.at < LOWEST {
            return Err(KernelError::Low {
                what: what(),
                start: program.at,
            });
        }
        check_ram(what, &(program.at..program.end), target)?;
    }
    if programs.windows(2).any(|pair| matches!(pair, [a, b] if a.end > b.at)) {
        return Err(KernelError::Malformed("its segments overlap in memory".into()));
    }
    let (Some(first), Some(last)) = (programs.first(), programs.last()) else {
        return Err(KernelError::Malformed("it has no segment to load".into()));
    };
    let span = first.at..last.end;
    let protocols = offered(u64_at(&header, 24), &notes, &programs);
    let sections = sections::read(image, &header);
    let segments = programs
        .iter()
        .flat_map(|program| sections::clip(program, &sections))
        .collect();
    Ok(KernelImage {
        format: Format::Elf,
        protocol: choose(protocols, target)?,
        segments,
        span,
    })
}

fn check_header(header: &[u8], target: &Target<'_>) -> Result<(), KernelError> {
    let machine = u16_at(header, 18);
    match (header.get(4), header.get(5), machine) {
        (Some(2), Some(1), MACHINE_X86_64) => check_machine("x86_64", target)?,
        (Some(2), Some(1), 183) => {
            return Err(KernelError::Unsupported(
                "an arm64 kernel boots as Image, not as ELF; use arch/arm64/boot/Image".into(),
            ));
        }
        (Some(1), _, _) => check_machine("a 32-bit machine", target)?,
        (_, Some(2), _) => check_machine("a big-endian machine", target)?,
        _ => check_machine(&format!("ELF machine {machine}"), target)?,
    }
    if !matches!(u16_at(header, 16), EXECUTABLE | SHARED) {
        return Err(KernelError::Unsupported(
            "the ELF file is no executable; give the linked vmlinux".into(),
        ));
    }
    if usize::from(u16_at(header, 54)) != PROGRAM_HEADER_LEN {
        return Err(KernelError::Malformed(
            "its program headers are not 56 bytes long".into(),
        ));
    }
    Ok(())
}

fn read_programs(image: &Image<'_, impl ReadAt + ?Sized>, header: &[u8]) -> Result<(Vec<Program>, Notes), KernelError> {
    let count = u16_at(header, 56);
    if count > MAX_PROGRAM_HEADERS {
        return Err(KernelError::Malformed(format!(
            "it has {count} program headers, more than {MAX_PROGRAM_HEADERS}"
        )));
    }
    let table = image.read(
        u64_at(header, 32),
        usize::from(count) * PROGRAM_HEADER_LEN,
        "the program headers",
    )?;
    let (mut programs, mut notes) = (Vec::new(), Notes::default());
    for (index, entry) in table.chunks_exact(PROGRAM_HEADER_LEN).enumerate() {
        let (offset, at) = (u64_at(entry, 8), u64_at(entry, 24));
        let (file_size, memory_size) = (u64_at(entry, 32), u64_at(entry, 40));
        match u32_at(entry, 0) {
            LOAD if memory_size > 0 => {
                let image_end = image.check(offset, file_size, || format!("segment {index}"))?;
                let end = at
                    .checked_add(memory_size)
                    .filter(|_| file_size <= memory_size)
                    .ok_or_else(|| {
                        KernelError::Malformed(format!(
                            "segment {index} has {file_size:#x} bytes for {memory_size:#x} bytes of memory at {at:#x}"
                        ))
                    })?;
                programs.push(Program {
                    image: offset..image_end,
                    at,
                    end,
                });
            }
            NOTE if file_size <= MAX_NOTES => {
                read_notes(&image.read(offset, file_size as usize, "the notes")?, &mut notes);
            }
            _ => {}
        }
    }
    Ok((programs, notes))
}

/// Walks a note segment; what is malformed ends the walk.
fn read_notes(mut bytes: &[u8], notes: &mut Notes) {
    while bytes.len() >= 12 {
        let (name_len, data_len, kind) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize, u32_at(bytes, 8));
        let data_at = 12usize.saturating_add(name_len.saturating_add(3) & !3);
        let Some(name) = name_len.checked_add(12).and_then(|end| bytes.get(12..end)) else {
            return;
        };
        let Some(data) = data_at.checked_add(data_len).and_then(|end| bytes.get(data_at..end)) else {
            return;
        };
        match name {
            // 4 bytes, or 8 in Linux, of which the upper half must be 0.
            b"Xen\0" if kind == XEN_PHYS32_ENTRY && data.len() == 4 => notes.pvh = Some(u32_at(data, 0)),
            b"Xen\0" if kind == XEN_PHYS32_ENTRY => notes.pvh = u32::try_from(u64_at(data, 0)).ok(),
            b"Linux\0" => notes.linux = true,
            _ => {}
        }
        let next = data_at.saturating_add(data_len.saturating_add(3) & !3);
        let Some(rest) = bytes.get(next..) else { return };
        bytes = rest;
    }
}

/// The protocols on offer, best first. The 64-bit entry is a few thousand instructions shorter than PVH's 32-bit entry,
/// but only a kernel that is surely Linux has one: another's `e_entry` may mean anything.
fn offered(entry: u64, notes: &Notes, programs: &[Program]) -> Vec<BootProtocol> {
    let inside = |entry: u64| {
        programs
            .iter()
            .any(|program| (program.at..program.end).contains(&entry))
    };
    let mut offered = Vec::new();
    if inside(entry) {
        offered.push(BootProtocol::Linux64 {
            entry,
            setup_header: None,
        });
    }
    if let Some(entry) = notes.pvh.filter(|&entry| inside(entry.into())) {
        let at = if notes.linux { offered.len() } else { 0 };
        offered.insert(at, BootProtocol::Pvh { entry });
    }
    offered
}
