//! Walks the tables as a guest would.
use super::*;

const AT: u64 = 0xe_0000;
const PARTS: &[Part] = &[
    Part {
        kind: PartKind::Console,
        space: Space::Pio,
        base: 0x3f8,
        size: 8,
        gsi: Some(4),
    },
    Part {
        kind: PartKind::AcpiPower,
        space: Space::Pio,
        base: 0x600,
        size: 4,
        gsi: None,
    },
    Part {
        kind: PartKind::Ged,
        space: Space::Mmio,
        base: 0xfe00_0000,
        size: 0x1000,
        gsi: Some(5),
    },
];

fn bytes(cpus: u32, parts: &[Part]) -> Vec<u8> {
    tables(
        &Machine {
            cpus,
            parts,
            local_apic: 0xfee0_0000,
            io_apic: 0xfec0_0000,
        },
        AT,
    )
    .bytes
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The table at guest address `at`, after checks of its length and checksum.
fn table(bytes: &[u8], at: u64) -> &[u8] {
    let rest = &bytes[usize::try_from(at - AT).unwrap()..];
    let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
    let table = &rest[..len];
    assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(&table[..4]));
    table
}

fn find(bytes: &[u8], signature: [u8; 4]) -> Vec<u8> {
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!((sum(&bytes[..20]), sum(&bytes[..36]), bytes[15]), (0, 0, 2));
    let xsdt = table(bytes, u64_at(bytes, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let mut found: Vec<&[u8]> = xsdt[36..]
        .chunks(8)
        .map(|entry| table(bytes, u64_at(entry, 0)))
        .collect();
    let fadt = *found.iter().find(|table| table[..4] == *b"FACP").unwrap();
    found.push(table(bytes, u64_at(fadt, 140)));
    found.iter().find(|table| table[..4] == signature).unwrap().to_vec()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_guest_finds_every_table_and_the_checksums_hold() {
    for cpus in [1, 64, 255, 1024] {
        let bytes = bytes(cpus, PARTS);
        for signature in [*b"FACP", *b"APIC", *b"DSDT"] {
            find(&bytes, signature);
        }
    }
}

#[test]
fn the_fadt_is_hardware_reduced_and_has_the_power_registers() {
    let fadt = find(&bytes(1, PARTS), *b"FACP");
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_ne!(flags & 1 << 20, 0, "hardware-reduced");
    assert_ne!(flags & 1 << 10, 0, "reset register");
    assert_eq!(
        (&fadt[116..120], u64_at(&fadt, 120), fadt[128]),
        (&[1u8, 8, 0, 1][..], 0x602, RESET_VALUE)
    );
    assert_eq!((fadt[244], u64_at(&fadt, 248)), (1, 0x600), "sleep control");
    assert_eq!((fadt[256], u64_at(&fadt, 260)), (1, 0x601), "sleep status");
    assert_eq!(
        &fadt[109..111],
        &[0x24, 0],
        "neither VGA, nor CMOS clock, nor i8042, nor legacy devices"
    );
}

#[test]
fn the_fadt_promises_no_registers_that_are_not_plugged() {
    let bytes = bytes(1, &[]);
    let fadt = find(&bytes, *b"FACP");
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_eq!((flags & 1 << 10, u64_at(&fadt, 120), u64_at(&fadt, 248)), (0, 0, 0));
    assert_eq!(find(&bytes, *b"DSDT").len(), 36, "no device, no AML");
}

#[test]
fn the_madt_names_cpus_beyond_254_by_x2apic_entries() {
    let madt = find(&bytes(300, PARTS), *b"APIC");
    assert_eq!(&madt[36..44], &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0]);
    let (mut rest, mut ids, mut io_apics) = (&madt[44..], Vec::new(), 0);
    while let [kind, len, ..] = *rest {
        match kind {
            0 => ids.push((0, u32::from(rest[3]))),
            9 => ids.push((9, u32::from_le_bytes(rest[4..8].try_into().unwrap()))),
            _ => io_apics += u32::from(kind == 1 && rest[4..8] == 0xfec0_0000u32.to_le_bytes()),
        }
        rest = &rest[usize::from(len)..];
    }
    let expected: Vec<(u32, u32)> = (0..300).map(|id| (if id < 255 { 0 } else { 9 }, id)).collect();
    assert_eq!((ids, io_apics), (expected, 1));
}

#[test]
fn the_dsdt_describes_what_is_plugged_and_nothing_else() {
    let dsdt = find(&bytes(1, PARTS), *b"DSDT");
    for name in [&b"_S5_"[..], b"COM1", b"GED_", b"ACPI0013", b"_EVT", b"PWRB"] {
        assert!(contains(&dsdt, name), "{}", String::from_utf8_lossy(name));
    }
    assert!(!contains(&dsdt, b"COM2"));
    // IO(Decode16, 0x3f8, 0x3f8, 1, 8), then Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive) {4}, then the end.
    assert!(contains(
        &dsdt,
        &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 3, 1, 4, 0, 0, 0, 0x79]
    ));
}

#[test]
fn a_virtio_device_has_its_window_and_its_interrupt() {
    let part = Part {
        kind: PartKind::Ged,
        space: Space::Mmio,
        base: 0xd000_1000,
        size: 0x1000,
        gsi: Some(7),
    };
    let mut aml = Vec::new();
    dsdt::virtio_mmio(&mut aml, 11, &part);
    assert!(contains(&aml, b"VI0B") && contains(&aml, b"LNRO0005"));
    let window = [0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 0x10, 0, 0];
    assert!(contains(&aml, &[&window[..], &[0x89, 6, 0, 3, 1, 7, 0, 0, 0]].concat()));
}

#[test]
fn the_power_off_package_holds_the_sleep_type() {
    // Name(_S5_, Package(4) { 5, 0, 0, 0 })
    let aml = [&[0x08][..], b"_S5_", &[0x12, 7, 4, 0x0a, SLEEP_TYPE_S5, 0, 0, 0]].concat();
    assert_eq!(&find(&bytes(1, PARTS), *b"DSDT")[36..49], &aml);
}

const PCI: &[Part] = &[
    Part {
        kind: PartKind::PciConfig,
        space: Space::Mmio,
        base: 0xf000_0000,
        size: 1 << 20,
        gsi: None,
    },
    Part {
        kind: PartKind::PciMemory,
        space: Space::Mmio,
        base: 0xe000_0000,
        size: 0x1000_0000,
        gsi: None,
    },
    Part {
        kind: PartKind::PciIo,
        space: Space::Pio,
        base: 0x1000,
        size: 0xf000,
        gsi: None,
    },
];

#[test]
fn the_mcfg_names_the_config_spaces_of_one_bus() {
    let mcfg = find(&bytes(1, PCI), *b"MCFG");
    assert_eq!(mcfg.len(), 36 + 8 + 16);
    assert_eq!(u64_at(&mcfg, 44), 0xf000_0000);
    assert_eq!(&mcfg[52..], [0; 8], "segment 0, buses 0 to 0");
    let entries = |parts: &[Part]| {
        let bytes = bytes(1, parts);
        table(&bytes, u64_at(&bytes, 24)).len() / 8
    };
    assert_eq!(entries(PCI), entries(PARTS) + 1, "none without PCI");
}

#[test]
fn the_pci_bridge_decodes_its_apertures_and_the_config_spaces_are_kept() {
    let dsdt = find(&bytes(1, PCI), *b"DSDT");
    for name in [&b"PCI0"[..], b"_BBN", b"_SEG", b"PCIC"] {
        assert!(contains(&dsdt, name), "{}", String::from_utf8_lossy(name));
    }
    // WordBusNumber 0..=0, WordIO 0x1000..=0xffff, DWordMemory 0xe0000000..=0xefffffff, the end.
    let resources = [
        &[0x88, 13, 0, 2, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..],
        &[0x88, 13, 0, 1, 12, 3, 0, 0, 0, 0x10, 0xff, 0xff, 0, 0, 0, 0xf0],
        &[0x87, 23, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0xff, 0xff, 0xff, 0xef],
        &[0, 0, 0, 0, 0, 0, 0, 0x10, 0x79],
    ];
    assert!(contains(&dsdt, &resources.concat()));
    // Memory32Fixed(ReadWrite, 0xf0000000, 0x100000)
    assert!(contains(&dsdt, &[0x86, 9, 0, 1, 0, 0, 0, 0xf0, 0, 0, 0x10, 0, 0x79]));
}
