//! Guest RAM: where it is, and how the memory map tells the guest.
use super::layout::{ACPI, HIGH_RAM, INITRD_END, LOW_RAM_END, MMIO_GAP};
use std::ops::Range;

/// Addresses below end at this: what the guest's page tables can name with 52 bits.
const ADDRESS_END: u64 = 1 << 52;
const PAGE: u64 = 0x1000;

/// Kinds of memory, with the numbers that e820 and PVH use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    AcpiTables = 3,
}

/// One line of the memory map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) range: Range<u64>,
    pub(super) kind: Kind,
}

/// Guest-physical ranges that hold `bytes` of RAM, split around the MMIO gap.
pub(super) fn ranges(bytes: u64) -> Vec<Range<u64>> {
    if bytes <= MMIO_GAP.start {
        return std::iter::once(0..bytes).collect();
    }
    let high = (bytes - MMIO_GAP.start).min(ADDRESS_END - MMIO_GAP.end);
    vec![0..MMIO_GAP.start, MMIO_GAP.end..MMIO_GAP.end + high]
}

/// The highest page-aligned place for an initrd that Linux can reach by every protocol; in a small guest that is below the
/// kernel.
pub(super) fn initrd_address(ram: &[Range<u64>], kernel: &Range<u64>, size: u64) -> Option<u64> {
    let above = kernel.end.max(HIGH_RAM)..ram.first()?.end.min(INITRD_END);
    [above, HIGH_RAM..kernel.start].into_iter().find_map(|room| {
        let at = room.end.checked_sub(size)? / PAGE * PAGE;
        (at >= room.start).then_some(at)
    })
}

/// The memory map of a guest with this RAM.
pub(super) fn entries(ram: &[Range<u64>]) -> Vec<Entry> {
    let mut entries = vec![
        Entry {
            range: 0..LOW_RAM_END,
            kind: Kind::Ram,
        },
        Entry {
            range: ACPI,
            kind: Kind::AcpiTables,
        },
    ];
    for range in ram {
        let range = range.start.max(HIGH_RAM)..range.end;
        if !range.is_empty() {
            entries.push(Entry { range, kind: Kind::Ram });
        }
    }
    entries
}
