//! Whatever is plugged, the ACPI tables have a valid RSDP, and every table that the XSDT names is whole.
#![no_main]
use coracle_arch::acpi::{self, Machine};
use coracle_arch::platform::{Part, PartKind, Space};
use libfuzzer_sys::fuzz_target;

const AT: u64 = 0xe_0000;
const KINDS: [PartKind; 7] = [
    PartKind::Console,
    PartKind::AgentPort,
    PartKind::Rtc,
    PartKind::Ged,
    PartKind::Gpio,
    PartKind::AcpiPower,
    PartKind::I8042,
];

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fuzz_target!(|input: (u16, Vec<(u8, bool, u64, u64, Option<u32>)>)| {
    let (cpus, parts) = input;
    let parts: Vec<Part> = parts
        .into_iter()
        .map(|(kind, mmio, base, size, gsi)| Part {
            kind: KINDS[usize::from(kind) % KINDS.len()],
            space: if mmio { Space::Mmio } else { Space::Pio },
            base,
            size,
            gsi,
        })
        .collect();
    let machine = Machine {
        cpus: cpus.into(),
        parts: &parts,
        local_apic: 0xfee0_0000,
        io_apic: 0xfec0_0000,
    };
    let bytes = acpi::tables(&machine, AT).bytes;
    assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
    let table = |at: u64| {
        let rest = &bytes[(at - AT) as usize..];
        let table = &rest[..u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize];
        assert_eq!(sum(table), 0);
        table
    };
    let xsdt = table(u64::from_le_bytes(bytes[24..32].try_into().unwrap()));
    for entry in xsdt[36..].chunks_exact(8) {
        table(u64::from_le_bytes(entry.try_into().unwrap()));
    }
});
