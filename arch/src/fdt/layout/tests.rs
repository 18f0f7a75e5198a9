use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SIZES: [u64; 9] = [
    32 * MIB,
    33 * MIB,
    128 * MIB,
    256 * MIB,
    GIB,
    5 * GIB,
    32 * GIB,
    64 * GIB,
    900 * GIB,
];
const CPUS: [u32; 7] = [1, 2, 8, 64, 123, 256, 512];

fn windows(gic: &Gic) -> Vec<Range<u64>> {
    match gic.clone() {
        Gic::V2 {
            distributor,
            cpu_interface,
        } => vec![distributor, cpu_interface],
        Gic::V3 {
            distributor,
            redistributors,
        } => vec![redistributors, distributor],
    }
}

#[test]
fn nothing_overlaps_whatever_the_size() {
    for gic in CPUS.map(Gic::v3).into_iter().chain([Gic::v2()]) {
        for bytes in SIZES {
            let mut all: Vec<_> = PCI[..2].iter().map(|part| part.base..part.base + part.size).collect();
            all.extend(windows(&gic));
            all.extend(
                PCI[2..]
                    .iter()
                    .chain(PLATFORM)
                    .map(|part| part.base..part.base + part.size),
            );
            all.push(DEVICES);
            all.extend(memory_ranges(bytes));
            for pair in all.windows(2) {
                assert!(pair[0].start < pair[0].end, "{gic:?} {pair:x?}");
                assert!(pair[0].end <= pair[1].start, "{gic:?} {pair:x?}");
            }
        }
    }
}

#[test]
fn each_cpu_has_a_redistributor_of_128_kib_ending_at_the_distributor() {
    for cpus in CPUS {
        let Gic::V3 {
            distributor,
            redistributors,
        } = Gic::v3(cpus)
        else {
            panic!("not a GICv3")
        };
        assert_eq!(redistributors.end - redistributors.start, u64::from(cpus) * 0x2_0000);
        assert_eq!(redistributors.end, distributor.start);
        assert_eq!(redistributors.start % 0x1_0000, 0, "KVM wants 64 KiB alignment");
    }
}

#[test]
fn all_of_memory_is_ram_in_one_piece() {
    for bytes in SIZES {
        let ram = memory_ranges(bytes);
        assert_eq!(ram.len(), 1);
        assert_eq!(ram[0].end - ram[0].start, bytes);
    }
    assert_eq!(memory_ranges(u64::MAX)[0].end, u64::MAX, "no wrap");
}

#[test]
fn initrd_and_tree_share_the_kernels_window_and_nothing_else() {
    for bytes in SIZES {
        let ram = memory_ranges(bytes);
        let kernel_end = RAM_BASE + 20 * MIB;
        for size in [0, 1, 4095, 4096, 3 * MIB, 9 * MIB] {
            let fdt = fdt_address(&ram).unwrap();
            let initrd = initrd_address(&ram, kernel_end, size).unwrap();
            assert_eq!(fdt % FDT_SPACE, 0);
            assert!(fdt + FDT_SPACE <= ram[0].end);
            assert_eq!(initrd % 4096, 0);
            assert!(initrd >= kernel_end, "{bytes} {size}");
            assert!(initrd + size <= fdt, "{bytes} {size}");
            assert!(
                fdt + FDT_SPACE <= RAM_BASE + 32 * GIB,
                "the window that booting.rst grants"
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let ram = memory_ranges(64 * MIB);
    let fits = 64 * MIB - FDT_SPACE - 20 * MIB;
    assert_eq!(
        initrd_address(&ram, RAM_BASE + 20 * MIB, fits),
        Some(RAM_BASE + 20 * MIB)
    );
    assert_eq!(initrd_address(&ram, RAM_BASE + 20 * MIB, fits + 1), None);
    assert_eq!(
        initrd_address(&ram, RAM_BASE + 63 * MIB, 0),
        None,
        "the kernel reaches into the device tree"
    );
    assert_eq!(initrd_address(&ram, RAM_BASE, u64::MAX), None);
    assert_eq!(fdt_address(&memory_ranges(MIB)), None);
    assert_eq!(fdt_address(&memory_ranges(0)), None);
    assert_eq!(fdt_address(&[]), None);
}

#[test]
fn platform_devices_have_interrupts_of_their_own() {
    let mut lines: Vec<u32> = PLATFORM.iter().filter_map(|part| part.gsi).collect();
    assert!(lines.iter().all(|line| SPIS.contains(line)));
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(
        lines.len(),
        3,
        "console, agent port and power button; the clock has none"
    );
}

#[test]
fn messages_enlarge_the_interrupt_controller_and_nothing_else_does() {
    assert_eq!(
        [0, 1, 32, 33, 900, 928, u32::MAX].map(interrupts),
        [64, 96, 96, 128, 992, 992, 992]
    );
    let Messages::Frame { register, first, most } = MESSAGES else {
        panic!("{MESSAGES:?}");
    };
    let frame = PCI.iter().find(|part| part.kind == PartKind::MessageFrame).unwrap();
    assert_eq!((register, first), (frame.base + 0x40, 32));
    assert_eq!(interrupts(most), 64 + most);
}
