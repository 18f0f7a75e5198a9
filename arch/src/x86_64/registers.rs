//! What is in the boot CPU's registers when it starts: flat segments, and for 64-bit mode page tables.
use super::{
    Entry,
    layout::{BOOT_STACK, GDT, MAPPED_GIB, PAGE_TABLES, PVH, ZERO_PAGE},
};
use crate::ArchError;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set; interrupts are off.
const RFLAGS: u64 = 2;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const HUGE: u64 = 1 << 7;
const PAGE: u64 = 0x1000;
const HUGE_PAGE: u64 = 2 << 20;
const TABLE_ENTRIES: u64 = 512;
/// Linux's `__BOOT_CS`; the data segment and the task state follow it.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
/// Type of a code segment that may be read, and was accessed.
const CODE: u8 = 0xb;
/// Type of a data segment that may be written, and was accessed.
const DATA: u8 = 0x3;
/// Type of a busy task state.
const TASK: u8 = 0xb;

fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

fn code_segment(entry: &Entry) -> kvm_segment {
    let long = matches!(entry, Entry::Linux64 { .. });
    kvm_segment {
        l: u8::from(long),
        db: u8::from(!long),
        ..segment(CODE_SELECTOR, CODE)
    }
}

fn task_segment() -> kvm_segment {
    kvm_segment {
        limit: 0x67,
        g: 0,
        db: 0,
        s: 0,
        ..segment(TASK_SELECTOR, TASK)
    }
}

/// A segment as the GDT holds it; the bases are all 0.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let access = u64::from(segment.type_ | segment.s << 4 | segment.dpl << 5 | segment.present << 7);
    let flags = u64::from(segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3);
    (limit & 0xffff) | access << 40 | (limit >> 16) << 48 | flags << 52
}

fn gdt(entry: &Entry) -> [u64; 5] {
    [
        0,
        0,
        descriptor(&code_segment(entry)),
        descriptor(&segment(DATA_SELECTOR, DATA)),
        descriptor(&task_segment()),
    ]
}

/// The page tables that map the first [`MAPPED_GIB`] one to one: PML4, PDPT, page directories.
fn page_tables() -> Vec<u8> {
    let table = PRESENT | WRITABLE;
    let pdpt = PAGE_TABLES + PAGE;
    let directories = pdpt + PAGE;
    let mut bytes = Vec::with_capacity(((2 + MAPPED_GIB) * PAGE) as usize);
    bytes.extend_from_slice(&(pdpt | table).to_le_bytes());
    bytes.resize(PAGE as usize, 0);
    bytes.extend((0..MAPPED_GIB).flat_map(|index| ((directories + index * PAGE) | table).to_le_bytes()));
    bytes.resize(2 * PAGE as usize, 0);
    let pages = MAPPED_GIB * TABLE_ENTRIES;
    bytes.extend((0..pages).flat_map(|index| ((index * HUGE_PAGE) | table | HUGE).to_le_bytes()));
    bytes
}

/// Writes the GDT and, where the entry wants them, the page tables.
pub(super) fn write_tables(memory: &GuestMemoryMmap, entry: &Entry) -> Result<(), ArchError> {
    let write = |what, at, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|source| ArchError::Memory { what, at, source })
    };
    let gdt: Vec<u8> = gdt(entry)
        .iter()
        .flat_map(|descriptor| descriptor.to_le_bytes())
        .collect();
    write("the boot GDT", GDT, &gdt)?;
    match entry {
        Entry::Linux64 { .. } => write("the boot page tables", PAGE_TABLES, &page_tables()),
        Entry::Pvh { .. } => Ok(()),
    }
}

/// Puts the boot CPU at its entry.
pub(super) fn set_up(cpu: &VcpuFd, entry: &Entry) -> Result<(), ArchError> {
    let refused = |wish| move |source| ArchError::Kvm { wish, source };
    let mut sregs = cpu
        .get_sregs()
        .map_err(refused("read the boot CPU's system registers"))?;
    set_sregs(&mut sregs, entry);
    cpu.set_sregs(&sregs)
        .map_err(refused("set the boot CPU's system registers"))?;
    cpu.set_regs(&regs(entry))
        .map_err(refused("set the boot CPU's registers"))
}

fn set_sregs(sregs: &mut kvm_sregs, entry: &Entry) {
    let data = segment(DATA_SELECTOR, DATA);
    sregs.cs = code_segment(entry);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task_segment();
    sregs.gdt.base = GDT;
    sregs.gdt.limit = (size_of::<u64>() * gdt(entry).len() - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    match entry {
        Entry::Linux64 { .. } => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        }
        Entry::Pvh { .. } => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_NE;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
    }
}

fn regs(entry: &Entry) -> kvm_regs {
    match *entry {
        Entry::Linux64 { entry } => kvm_regs {
            rip: entry,
            rsi: ZERO_PAGE,
            rsp: BOOT_STACK,
            rbp: BOOT_STACK,
            rflags: RFLAGS,
            ..kvm_regs::default()
        },
        Entry::Pvh { entry } => kvm_regs {
            rip: entry.into(),
            rbx: PVH.start,
            rsp: BOOT_STACK,
            rflags: RFLAGS,
            ..kvm_regs::default()
        },
    }
}
