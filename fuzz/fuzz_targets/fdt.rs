//! Whatever the machine, the device tree's builder gives a well-framed tree or a refusal, and the address map keeps
//! the boot files apart.
#![no_main]
use coracle_arch::fdt::layout::{self, FDT_SPACE, Gic};
use coracle_arch::fdt::{self, Machine};
use coracle_arch::platform::{Part, PartKind, Space};
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::ops::Range;

const KINDS: [PartKind; 7] = [
    PartKind::Console,
    PartKind::AgentPort,
    PartKind::Rtc,
    PartKind::Ged,
    PartKind::Gpio,
    PartKind::AcpiPower,
    PartKind::I8042,
];

/// What a [`Machine`] borrows.
#[derive(Debug)]
struct Input {
    cpus: Vec<u64>,
    gic: Gic,
    ram: Vec<Range<u64>>,
    parts: Vec<Part>,
    cmdline: String,
    initrd: Option<Range<u64>>,
    seed: [u8; 64],
    kernel_end: u64,
    initrd_size: u64,
}

fn range(u: &mut Unstructured<'_>) -> Result<Range<u64>> {
    Ok(u.arbitrary()?..u.arbitrary()?)
}

fn part(u: &mut Unstructured<'_>) -> Result<Part> {
    Ok(Part {
        kind: *u.choose(&KINDS)?,
        // Ports are refused at once; let most parts get further.
        space: if u.ratio(1, 16)? { Space::Pio } else { Space::Mmio },
        base: u.arbitrary()?,
        size: u.arbitrary()?,
        gsi: u.arbitrary()?,
    })
}

fn list<T>(u: &mut Unstructured<'_>, one: fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=16)?).map(|_| one(u)).collect()
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            gic: if u.arbitrary()? {
                Gic::v2()
            } else {
                Gic::v3(u.arbitrary()?)
            },
            ram: if u.arbitrary()? {
                layout::memory_ranges(u.arbitrary()?)
            } else {
                list(u, range)?
            },
            initrd: if u.arbitrary()? { Some(range(u)?) } else { None },
            kernel_end: u.arbitrary()?,
            initrd_size: u.arbitrary()?,
            parts: list(u, part)?,
            cpus: u.arbitrary()?,
            seed: u.arbitrary()?,
            cmdline: u.arbitrary()?,
        })
    }
}

fuzz_target!(|input: Input| {
    let machine = Machine {
        cpus: &input.cpus,
        gic: &input.gic,
        ram: &input.ram,
        parts: &input.parts,
        cmdline: &input.cmdline,
        initrd: input.initrd.clone(),
        seed: input.seed,
    };
    if let Ok(tree) = fdt::build(&machine) {
        assert!(tree.len() as u64 <= FDT_SPACE);
        assert_eq!(tree[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert_eq!(tree[4..8], (tree.len() as u32).to_be_bytes());
    }
    if let Some(at) = layout::initrd_address(&input.ram, input.kernel_end, input.initrd_size) {
        let tree = layout::fdt_address(&input.ram).expect("an initrd's place is found below the tree's");
        assert!(at >= input.kernel_end && at + input.initrd_size <= tree && tree + FDT_SPACE <= input.ram[0].end);
    }
});
