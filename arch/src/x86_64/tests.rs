//! The bytes and registers that a guest finds, without a KVM.
#![allow(clippy::single_range_in_vec_init, reason = "RAM is often one range")]
use super::{
    cpuid::{Place, normalise},
    layout::{ACPI, CMDLINE, MMIO_GAP, PVH},
    memory_map::{Entry, Kind, entries, initrd_address, ranges},
    pvh, zero_page,
};
use kvm_bindings::kvm_cpuid_entry2;
use std::ops::Range;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Where Debian's kernel is.
const KERNEL: Range<u64> = 16 * MIB..62 * MIB;

#[test]
fn ram_is_split_around_the_gap_and_none_is_lost() {
    assert_eq!(ranges(32 * MIB), [0..32 * MIB]);
    assert_eq!(ranges(3 * GIB), [0..3 * GIB]);
    assert_eq!(ranges(5 * GIB), [0..3 * GIB, 4 * GIB..6 * GIB]);
    assert_eq!(ranges(3 * GIB + 0x1000), [0..3 * GIB, 4 * GIB..4 * GIB + 0x1000]);
    assert!(
        ranges(u64::MAX)
            .iter()
            .all(|range| range.start < range.end && range.end <= 1 << 52)
    );
}

#[test]
fn the_memory_map_is_sorted_disjoint_and_clear_of_the_gap() {
    for bytes in [32 * MIB, 256 * MIB, 3 * GIB, 5 * GIB] {
        let map = entries(&ranges(bytes));
        assert!(
            map.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start),
            "{map:x?}"
        );
        assert!(
            map.iter()
                .all(|entry| entry.range.end <= MMIO_GAP.start || entry.range.start >= MMIO_GAP.end)
        );
        let ram: u64 = map
            .iter()
            .filter(|entry| entry.kind == Kind::Ram)
            .map(|entry| entry.range.end - entry.range.start)
            .sum();
        assert_eq!(ram, bytes - (MIB - 0xa_0000));
        assert!(map.contains(&Entry {
            range: ACPI,
            kind: Kind::AcpiTables
        }));
    }
}

#[test]
fn the_initrd_is_as_high_as_linux_reaches_and_never_in_the_kernel() {
    assert_eq!(
        initrd_address(&ranges(256 * MIB), &KERNEL, 0x1801),
        Some(256 * MIB - 0x2000)
    );
    assert_eq!(initrd_address(&ranges(5 * GIB), &KERNEL, MIB), Some(2 * GIB - MIB));
    assert_eq!(initrd_address(&ranges(64 * MIB), &KERNEL, 2 * MIB), Some(62 * MIB));
    let below = Some(16 * MIB - 2 * MIB - 0x1000);
    assert_eq!(
        initrd_address(&ranges(64 * MIB), &KERNEL, 2 * MIB + 1),
        below,
        "below the kernel"
    );
    assert_eq!(initrd_address(&ranges(64 * MIB), &KERNEL, 15 * MIB + 1), None);
    assert_eq!(initrd_address(&ranges(64 * MIB), &KERNEL, u64::MAX), None);
    assert_eq!(initrd_address(&[], &KERNEL, 0), None);
}

#[test]
fn the_zero_page_points_to_everything() {
    let map = entries(&ranges(5 * GIB));
    let initrd = 0x1_2345_6000..0x1_2345_9000;
    let facts = zero_page::Facts {
        setup_header: None,
        cmdline_len: 77,
        initrd: Some(&initrd),
        memory_map: &map,
        rsdp: ACPI.start,
    };
    let page = zero_page::build(&facts);
    assert_eq!((&page[0x202..0x206], page[0x210]), (&b"HdrS"[..], 0xff));
    assert_eq!(
        (
            u64_at(&page, 0x70),
            u64::from(u32_at(&page, 0x228)),
            u32_at(&page, 0x238)
        ),
        (ACPI.start, CMDLINE, 77)
    );
    assert_eq!((u32_at(&page, 0x218), u32_at(&page, 0xc0)), (0x2345_6000, 1));
    assert_eq!((u32_at(&page, 0x21c), u32_at(&page, 0xc4)), (0x3000, 0));
    assert_eq!(usize::from(page[0x1e8]), map.len());
    let last = 0x2d0 + 20 * (map.len() - 1);
    assert_eq!(
        (u64_at(&page, last), u64_at(&page, last + 8), u32_at(&page, last + 16)),
        (4 * GIB, 2 * GIB, 1)
    );
    let seed = zero_page::rng_seed(&[7; 64]);
    assert_eq!(
        (u64_at(&seed, 0), u32_at(&seed, 8), u32_at(&seed, 12), seed.len()),
        (0, 9, 64, 80)
    );
}

#[test]
fn a_setup_header_is_kept_and_cannot_overrun_the_memory_map() {
    let facts = |header| zero_page::Facts {
        setup_header: Some(header),
        cmdline_len: 0,
        initrd: None,
        memory_map: &[],
        rsdp: 0,
    };
    let page = zero_page::build(&facts(&[0xaa; 0x1000]));
    assert_eq!((page[0x1f1], page[0x28f], page[0x290]), (0xaa, 0xaa, 0));
    assert_eq!(
        zero_page::build(&facts(&[0xbb; 4]))[0x1f1..0x1f6],
        [0xbb, 0xbb, 0xbb, 0xbb, 0]
    );
}

#[test]
fn the_pvh_start_info_links_its_parts_and_fits() {
    let map = entries(&ranges(5 * GIB));
    let initrd: Range<u64> = 0x700_0000..0x710_0000;
    let info = pvh::build(Some(&initrd), &map, ACPI.start);
    assert!(info.len() as u64 <= PVH.end - PVH.start);
    assert_eq!(
        (u32_at(&info, 0), u32_at(&info, 4), u32_at(&info, 12)),
        (0x336e_c578, 1, 1)
    );
    assert_eq!((u64_at(&info, 24), u64_at(&info, 32)), (CMDLINE, ACPI.start));
    let module = usize::try_from(u64_at(&info, 16) - PVH.start).unwrap();
    assert_eq!(
        (u64_at(&info, module), u64_at(&info, module + 8)),
        (initrd.start, 0x10_0000)
    );
    let first = usize::try_from(u64_at(&info, 40) - PVH.start).unwrap();
    assert_eq!(
        (u32_at(&info, 48) as usize, info.len()),
        (map.len(), first + 24 * map.len())
    );
    assert_eq!((u64_at(&info, first + 8), u32_at(&info, first + 16)), (0xa_0000, 1));
    let bare = pvh::build(None, &map, ACPI.start);
    assert_eq!((u32_at(&bare, 12), u64_at(&bare, 16)), (0, 0));
}

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..kvm_cpuid_entry2::default()
    }
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
    let found: Vec<_> = entries
        .iter()
        .filter(|entry| entry.function == function && entry.index == index)
        .collect();
    assert_eq!(found.len(), 1, "leaf {function:#x}/{index}");
    [found[0].eax, found[0].ebx, found[0].ecx, found[0].edx]
}

/// Every bit set where the normaliser must clear some.
fn supported(vendor: &[u8; 12], highest: u32) -> Vec<kvm_cpuid_entry2> {
    let word = |at: usize| u32_at(vendor, at);
    vec![
        leaf(0, 0, [highest, word(0), word(8), word(4)]),
        leaf(1, 0, [0, 0xffff_ffff, 0x7fff_ffff, 0xffff_ffff]),
        leaf(4, 0, [0xffff_c021, 0, 0, 0]),
        leaf(4, 3, [0xffff_c063, 0, 0, 0]),
        leaf(4, 4, [0; 4]),
        leaf(6, 0, [0xff, 2, 9, 0]),
        leaf(7, 0, [0, 0, 0x20, 0]),
        leaf(0xa, 0, [1, 2, 3, 4]),
        leaf(0xb, 0, [9; 4]),
        leaf(0x8000_0000, 0, [0x8000_001e, 0, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, 0xffff_ffff, 0]),
        leaf(0x8000_0002, 0, [0x2020_2020; 4]),
        leaf(0x8000_0008, 0, [0x3030, 0, 0xff, 0]),
        leaf(0x8000_001d, 3, [0x03ff_c163, 0, 0, 0]),
        leaf(0x8000_001e, 0, [9; 4]),
    ]
}

fn normalised(vendor: &[u8; 12], highest: u32, place: Place) -> Vec<kvm_cpuid_entry2> {
    let mut entries = supported(vendor, highest);
    normalise(&mut entries, place, true);
    entries
}

#[test]
fn cpuid_tells_the_topology_on_intel() {
    let entries = normalised(b"GenuineIntel", 0x1f, Place { index: 3, count: 6 });
    let [_, ebx, ecx, edx] = find(&entries, 1, 0);
    assert_eq!(ebx, 3 << 24 | 6 << 16 | 0xff00);
    assert_eq!(
        (ecx & (1 << 31), ecx & (1 << 24), ecx & (1 << 15)),
        (1 << 31, 1 << 24, 0)
    );
    assert_eq!((edx & (1 << 28), edx & (1 << 21)), (1 << 28, 0));
    for topology in [0xb, 0x1f] {
        assert_eq!(find(&entries, topology, 0), [0, 1, 0x100, 3]);
        assert_eq!(find(&entries, topology, 1), [3, 6, 0x201, 3]);
        assert_eq!(find(&entries, topology, 2), [0, 0, 2, 3]);
    }
    // Eight ids of cores; L1 is one core's, L3 is everyone's.
    assert_eq!(
        (find(&entries, 4, 0)[0], find(&entries, 4, 3)[0]),
        (7 << 26 | 0x21, 7 << 26 | 7 << 14 | 0x63)
    );
    assert_eq!(
        (find(&entries, 6, 0), find(&entries, 7, 0)[2], find(&entries, 0xa, 0)),
        ([4, 0, 0, 0], 0, [0; 4])
    );
    assert_eq!(find(&entries, 0x8000_0002, 0)[0].to_le_bytes(), *b"Inte");
}

#[test]
fn cpuid_tells_the_topology_on_amd() {
    let entries = normalised(b"AuthenticAMD", 0xd, Place { index: 1, count: 2 });
    assert_eq!(find(&entries, 0xb, 1), [1, 2, 0x201, 1]);
    assert!(
        !entries.iter().any(|entry| entry.function == 0x1f),
        "beyond the highest leaf"
    );
    assert_eq!(find(&entries, 0x8000_0000, 0)[0], 0x8000_001e, "is left alone");
    let extended = find(&entries, 0x8000_0001, 0)[2];
    assert_eq!(
        (extended & 1 << 1, extended & 1 << 22, extended & 1 << 23),
        (1 << 1, 1 << 22, 0)
    );
    assert_eq!(find(&entries, 0x8000_0008, 0)[..3], [0x3030, 0, 1 << 12 | 1]);
    assert_eq!(find(&entries, 0x8000_001d, 3)[0], 1 << 14 | 0x163);
    assert_eq!(find(&entries, 0x8000_001e, 0), [1, 1, 0, 0]);
}

#[test]
fn a_single_cpu_shares_nothing_and_the_highest_leaf_admits_the_topology() {
    let entries = normalised(b"AuthenticAMD", 5, Place { index: 0, count: 1 });
    assert_eq!(find(&entries, 0, 0)[0], 0xb);
    assert_eq!(find(&entries, 0xb, 1), [0, 1, 0x201, 0]);
    assert_eq!(find(&entries, 1, 0)[3] & 1 << 28, 0);
    assert_eq!(find(&entries, 0x8000_0001, 0)[2] & 1 << 1, 0);
}

#[test]
fn the_timer_mode_is_as_kvm_says() {
    let mut entries = supported(b"GenuineIntel", 0x1f);
    normalise(&mut entries, Place { index: 0, count: 1 }, false);
    assert_eq!(find(&entries, 1, 0)[2] & 1 << 24, 0);
}
