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
/// Work space that Linux reserves in the image for encrypting itself (`arch/x86/mm/mem_encrypt_identity.c`); it is
/// always written before it is read.
const SCRATCH: &[u8] = b".init.scratch";

/// The bytes of sections with content, sorted by their place in the image; empty where there are none or they make no sense.
pub(super) fn read(image: &Image<'_, impl ReadAt + ?Sized>, header: &[u8]) -> Vec<Range<u64>> {
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
            sections.push(offset..end);
        }
    }
    sections.sort_by_key(|section| section.start);
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
pub(super) fn clip(program: &Program, sections: &[Range<u64>]) -> Vec<Segment> {
    let whole = Segment {
        image: program.image.clone(),
        at: program.at,
    };
    if whole.image.is_empty() {
        return Vec::new();
    }
    let mut parts: Vec<Range<u64>> = Vec::new();
    for section in sections {
        let image = section.start.max(program.image.start)..section.end.min(program.image.end);
        if image.is_empty() {
            continue;
        }
        match parts.last_mut() {
            Some(last) if image.start < last.end => return vec![whole],
            Some(last) if image.start - last.end < SMALL_GAP => last.end = image.end,
            _ => parts.push(image),
        }
    }
    if parts.is_empty() {
        return vec![whole];
    }
    let at = |image: &Range<u64>| program.at + (image.start - program.image.start);
    parts
        .into_iter()
        .map(|image| Segment { at: at(&image), image })
        .collect()
}
