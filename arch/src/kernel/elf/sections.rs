//! Section headers as a hint where a segment's bytes can be other than zero. Whatever is odd about them, the answer is
//! the whole segment: sections never make a loadable image unloadable.
use super::{Image, Program, ReadAt, Segment, u16_at, u32_at, u64_at};
use std::ops::Range;

const SECTION_HEADER_LEN: usize = 64;
/// Most sections that are looked at; a vmlinux has about 40.
const MAX_SECTIONS: u16 = 1024;
/// Most bytes of section names that are looked at.
const MAX_NAMES: u64 = 64 << 10;
/// Type of a section without bytes in the image.
const NOBITS: u32 = 8;
/// Flag of a section that is in memory at run time.
const ALLOC: u64 = 2;
/// Zeros shorter than this are loaded rather than making one more segment.
const SMALL_GAP: u64 = 0x1000;
/// Cold sections smaller than this are not worth a segment of their own.
const SMALL_COLD: u64 = 0x1_0000;
/// What a booting Linux does not read: the rules for unwinding stacks. (It does read their index, and all of `.BTF`.)
const COLD: [&[u8]; 1] = [b".orc_unwind"];
/// Work space that Linux reserves in the image for encrypting itself (`arch/x86/mm/mem_encrypt_identity.c`); it is
/// always written before it is read.
const SCRATCH: &[u8] = b".init.scratch";

/// A section with content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// Bytes within the image.
    image: Range<u64>,
    cold: bool,
}

/// The sections with content, sorted by their place in the image; empty where there are none or they make no sense.
pub(super) fn read(image: &Image<'_, impl ReadAt + ?Sized>, header: &[u8]) -> Vec<Section> {
    let (at, size, count) = (u64_at(header, 40), usize::from(u16_at(header, 58)), u16_at(header, 60));
    if size != SECTION_HEADER_LEN || count > MAX_SECTIONS {
        return Vec::new();
    }
    let Ok(table) = image.read(at, usize::from(count) * SECTION_HEADER_LEN, "the section headers") else {
        return Vec::new();
    };
    let names = read_names(image, &table, u16_at(header, 62));
    let mut sections = Vec::new();
    for entry in table.chunks_exact(SECTION_HEADER_LEN) {
        let (kind, flags, offset, size) = (u32_at(entry, 4), u64_at(entry, 8), u64_at(entry, 24), u64_at(entry, 32));
        if kind == NOBITS || flags & ALLOC == 0 || size == 0 {
            continue;
        }
        let Ok(end) = image.check(offset, size, String::new) else {
            return Vec::new();
        };
        let name = name_at(&names, u32_at(entry, 0));
        if name != SCRATCH {
            sections.push(Section {
                image: offset..end,
                cold: COLD.contains(&name) && size >= SMALL_COLD,
            });
        }
    }
    sections.sort_by_key(|section| section.image.start);
    sections
}

fn read_names(image: &Image<'_, impl ReadAt + ?Sized>, table: &[u8], index: u16) -> Vec<u8> {
    let at = usize::from(index) * SECTION_HEADER_LEN;
    let Some(entry) = table.get(at..at + SECTION_HEADER_LEN) else {
        return Vec::new();
    };
    let len = u64_at(entry, 32);
    if len > MAX_NAMES {
        return Vec::new();
    }
    image
        .read(u64_at(entry, 24), len as usize, "the section names")
        .unwrap_or_default()
}

fn name_at(names: &[u8], at: u32) -> &[u8] {
    let rest = names.get(at as usize..).unwrap_or_default();
    rest.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The parts of `program` that have content, as far as its sections tell.
pub(super) fn clip(program: &Program, sections: &[Section]) -> Vec<Segment> {
    let whole = Segment {
        image: program.image.clone(),
        at: program.at,
        cold: false,
    };
    if whole.image.is_empty() {
        return Vec::new();
    }
    let mut parts: Vec<Section> = Vec::new();
    for section in sections {
        let image = section.image.start.max(program.image.start)..section.image.end.min(program.image.end);
        if image.is_empty() {
            continue;
        }
        match parts.last_mut() {
            Some(last) if image.start < last.image.end => return vec![whole],
            Some(last) if last.cold == section.cold && image.start - last.image.end < SMALL_GAP => {
                last.image.end = image.end;
            }
            _ => parts.push(Section {
                image,
                cold: section.cold,
            }),
        }
    }
    if parts.is_empty() {
        return vec![whole];
    }
    let at = |image: &Range<u64>| program.at + (image.start - program.image.start);
    parts
        .into_iter()
        .map(|part| Segment {
            at: at(&part.image),
            image: part.image,
            cold: part.cold,
        })
        .collect()
}
