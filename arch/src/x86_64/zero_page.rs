//! The zero page, Linux's `struct boot_params` (`Documentation/arch/x86/zero-page.rst`), and what it points to.
use super::{
    layout::{CMDLINE, SETUP_DATA},
    memory_map::Entry,
};
use std::ops::Range;

pub(super) const LEN: usize = 0x1000;
const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_HEADER: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const CMDLINE_SIZE: usize = 0x238;
const SETUP_DATA_PTR: usize = 0x250;
/// End of the setup header's room.
const SETUP_HEADER_END: usize = 0x290;
const E820_TABLE: usize = 0x2d0;
const E820_MAX: usize = 128;
const E820_ENTRY_LEN: usize = 20;
/// A boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// `SETUP_RNG_SEED`.
const RNG_SEED: u32 = 9;

/// What the zero page tells.
pub(super) struct Facts<'a> {
    pub(super) setup_header: Option<&'a [u8]>,
    pub(super) cmdline_len: usize,
    pub(super) initrd: Option<&'a Range<u64>>,
    pub(super) memory_map: &'a [Entry],
    pub(super) rsdp: u64,
}

/// The bytes of the zero page.
pub(super) fn build(facts: &Facts<'_>) -> [u8; LEN] {
    let mut page = [0; LEN];
    if let Some(header) = facts.setup_header {
        put(
            &mut page,
            SETUP_HEADER,
            header.get(..SETUP_HEADER_END - SETUP_HEADER).unwrap_or(header),
        );
    } else {
        // An ELF image brings no header: these make it a zero page of protocol 2.12.
        put(&mut page, BOOT_FLAG, &0xaa55u16.to_le_bytes());
        put(&mut page, MAGIC, b"HdrS");
        put(&mut page, VERSION, &0x20cu16.to_le_bytes());
        put(&mut page, KERNEL_ALIGNMENT, &0x20_0000u32.to_le_bytes());
    }
    put(&mut page, TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    put(&mut page, CMD_LINE_PTR, &(CMDLINE as u32).to_le_bytes());
    put(&mut page, CMDLINE_SIZE, &(facts.cmdline_len as u32).to_le_bytes());
    put(&mut page, SETUP_DATA_PTR, &SETUP_DATA.to_le_bytes());
    put(&mut page, ACPI_RSDP_ADDR, &facts.rsdp.to_le_bytes());
    if let Some(initrd) = facts.initrd {
        let (start, size) = (initrd.start, initrd.end.saturating_sub(initrd.start));
        put(&mut page, RAMDISK_IMAGE, &(start as u32).to_le_bytes());
        put(&mut page, EXT_RAMDISK_IMAGE, &((start >> 32) as u32).to_le_bytes());
        put(&mut page, RAMDISK_SIZE, &(size as u32).to_le_bytes());
        put(&mut page, EXT_RAMDISK_SIZE, &((size >> 32) as u32).to_le_bytes());
    }
    let entries = facts.memory_map.iter().take(E820_MAX);
    put(&mut page, E820_ENTRIES, &[entries.len() as u8]);
    for (index, entry) in entries.enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_LEN;
        put(&mut page, at, &entry.range.start.to_le_bytes());
        put(&mut page, at + 8, &(entry.range.end - entry.range.start).to_le_bytes());
        put(&mut page, at + 16, &(entry.kind as u32).to_le_bytes());
    }
    page
}

/// A `struct setup_data` that ends the list and carries the seed.
pub(super) fn rng_seed(seed: &[u8; 64]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend_from_slice(&0u64.to_le_bytes());
    data.extend_from_slice(&RNG_SEED.to_le_bytes());
    data.extend_from_slice(&(seed.len() as u32).to_le_bytes());
    data.extend_from_slice(seed);
    data
}

fn put(page: &mut [u8; LEN], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
