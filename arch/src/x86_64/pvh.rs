//! What PVH hands to the kernel: `struct hvm_start_info`, version 1, with its memory map and module list
//! (`xen/include/public/arch-x86/hvm/start_info.h`).
use super::{
    layout::{CMDLINE, PVH},
    memory_map::Entry,
};
use std::ops::Range;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO_LEN: u64 = 56;
const MODULE_LEN: u64 = 32;

/// The bytes that go to [`PVH`]: the start info, at most one module, the memory map.
pub(super) fn build(initrd: Option<&Range<u64>>, memory_map: &[Entry], rsdp: u64) -> Vec<u8> {
    let modules = PVH.start + START_INFO_LEN;
    let map = modules + MODULE_LEN;
    let mut bytes = Vec::new();
    let mut word = |value: u32| bytes.extend_from_slice(&value.to_le_bytes());
    word(MAGIC);
    word(VERSION);
    word(0);
    word(u32::from(initrd.is_some()));
    let mut quad = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
    quad(if initrd.is_some() { modules } else { 0 });
    quad(CMDLINE);
    quad(rsdp);
    quad(map);
    quad(memory_map.len() as u64);
    let initrd = initrd.cloned().unwrap_or_default();
    for value in [initrd.start, initrd.end.saturating_sub(initrd.start), 0, 0] {
        quad(value);
    }
    for entry in memory_map {
        quad(entry.range.start);
        quad(entry.range.end - entry.range.start);
        quad(entry.kind as u64);
    }
    bytes
}
