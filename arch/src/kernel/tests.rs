//! Images made by hand, and what is wrong with them when something is.
#![allow(clippy::single_range_in_vec_init, reason = "RAM is often one range")]
use super::*;

const MIB: u64 = 1 << 20;
const RAM: &[Range<u64>] = &[0..256 * MIB];

fn target<'a>(machine: &'a str, ram: &'a [Range<u64>]) -> Target<'a> {
    Target {
        machine,
        ram,
        protocol: None,
    }
}

fn x86() -> Target<'static> {
    target("x86_64", RAM)
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn check(image: &Vec<u8>, target: &Target<'_>) -> Result<KernelImage, KernelError> {
    parse(image, image.len() as u64, target)
}

/// Says which words the message of an error must contain.
fn refused(image: &Vec<u8>, target: &Target<'_>, words: &[&str]) {
    let message = check(image, target).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

/// One program header.
#[derive(Clone, Copy)]
struct Ph {
    kind: u32,
    offset: u64,
    at: u64,
    file: u64,
    memory: u64,
}

/// An ELF image of 64 KiB with these program headers and sections (type, flags, offset, size, name).
fn elf(entry: u64, programs: &[Ph], sections: &[(u32, u64, u64, u64, &str)]) -> Vec<u8> {
    let mut image = vec![0; 0x1_0000];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0]);
    put(&mut image, 24, &entry.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &[56, 0, programs.len() as u8, 0]);
    for (index, program) in programs.iter().enumerate() {
        let at = 64 + index * 56;
        put(&mut image, at, &program.kind.to_le_bytes());
        for (field, value) in [
            (8, program.offset),
            (24, program.at),
            (32, program.file),
            (40, program.memory),
        ] {
            put(&mut image, at + field, &value.to_le_bytes());
        }
    }
    if !sections.is_empty() {
        put(&mut image, 40, &0xe000u64.to_le_bytes());
        put(
            &mut image,
            58,
            &[64, 0, sections.len() as u8 + 1, 0, sections.len() as u8, 0],
        );
        let mut names = 0xd000;
        for (index, (kind, flags, offset, size, name)) in sections.iter().enumerate() {
            let at = 0xe000 + index * 64;
            put(&mut image, at, &(names as u32 - 0xd000).to_le_bytes());
            put(&mut image, at + 4, &kind.to_le_bytes());
            for (field, value) in [(8, flags), (24, offset), (32, size)] {
                put(&mut image, at + field, &value.to_le_bytes());
            }
            put(&mut image, names, name.as_bytes());
            names += name.len() + 1;
        }
        let at = 0xe000 + sections.len() * 64;
        put(&mut image, at + 24, &0xd000u64.to_le_bytes());
        put(&mut image, at + 32, &0x1000u64.to_le_bytes());
    }
    image
}

fn load(offset: u64, at: u64, file: u64, memory: u64) -> Ph {
    Ph {
        kind: 1,
        offset,
        at,
        file,
        memory,
    }
}

fn note(image: &mut [u8], at: usize, name: [u8; 4], kind: u32, data: &[u8]) {
    put(image, at, &4u32.to_le_bytes());
    put(image, at + 4, &(data.len() as u32).to_le_bytes());
    put(image, at + 8, &kind.to_le_bytes());
    put(image, at + 12, &name);
    put(image, at + 16, data);
}

fn pvh_image() -> Vec<u8> {
    let notes = Ph {
        kind: 4,
        offset: 0x800,
        at: 0,
        file: 24,
        memory: 24,
    };
    let mut image = elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x2000, 0x4000), notes], &[]);
    note(&mut image, 0x800, *b"Xen\0", 18, &(16 * MIB + 0x50).to_le_bytes());
    image
}

#[test]
fn an_elf_kernel_without_sections_is_loaded_whole() {
    let kernel = check(&elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x2000, 0x4000)], &[]), &x86()).unwrap();
    assert_eq!(
        kernel.protocol,
        BootProtocol::Linux64 {
            entry: 16 * MIB,
            setup_header: None
        }
    );
    assert_eq!(
        kernel.segments,
        [Segment {
            image: 0x1000..0x3000,
            at: 16 * MIB,
        }]
    );
    assert_eq!((kernel.format, kernel.span), (Format::Elf, 16 * MIB..16 * MIB + 0x4000));
}

#[test]
fn sections_cut_zeros_out_of_a_segment() {
    let sections = [
        (1, 2, 0x1000, 0x800, ".text"),
        (1, 2, 0x2000, 0x100, ".near"),
        (8, 2, 0x3000, 0x4000, ".bss"),
        (1, 2, 0x8000, 0x1000, ".data"),
        (1, 2, 0x9000, 0x1000, ".init.scratch"),
        (1, 0, 0x5000, 0x100, ".comment"),
    ];
    let image = elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x9000, 0x9000)], &sections);
    let kernel = check(&image, &x86()).unwrap();
    let segment = |image: Range<u64>| Segment {
        at: 16 * MIB + image.start - 0x1000,
        image,
    };
    assert_eq!(kernel.segments, [segment(0x1000..0x2100), segment(0x8000..0x9000)]);
}

#[test]
fn odd_sections_leave_the_segment_whole() {
    let whole = [Segment {
        image: 0x1000..0x3000,
        at: 16 * MIB,
    }];
    let overlapping = [(1, 2, 0x1000, 0x1000, ".a"), (1, 2, 0x1800, 0x100, ".b")];
    let outside = [(1, 2, 0x1000, u64::MAX, ".a"), (1, 2, 0x1800, 0x100, ".b")];
    for sections in [overlapping, outside] {
        let image = elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x2000, 0x2000)], &sections);
        assert_eq!(check(&image, &x86()).unwrap().segments, whole);
    }
}

#[test]
fn a_pvh_entry_is_preferred_unless_the_kernel_is_linux() {
    let mut image = pvh_image();
    let pvh = BootProtocol::Pvh {
        entry: (16 * MIB) as u32 + 0x50,
    };
    assert_eq!(check(&image, &x86()).unwrap().protocol, pvh);
    let wish = |protocol| Target {
        protocol: Some(protocol),
        ..x86()
    };
    assert_eq!(
        check(&image, &wish(Protocol::Linux64)).unwrap().protocol.kind(),
        Protocol::Linux64
    );
    // The same with a note by Linux behind it; its name has 6 bytes.
    put(&mut image, 64 + 56 + 32, &48u64.to_le_bytes());
    put(&mut image, 0x818, &[6, 0, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0]);
    put(&mut image, 0x824, b"Linux\0");
    assert_eq!(check(&image, &x86()).unwrap().protocol.kind(), Protocol::Linux64);
    assert_eq!(check(&image, &wish(Protocol::Pvh)).unwrap().protocol, pvh);
}

#[test]
fn a_protocol_that_the_kernel_lacks_is_named_beside_those_it_has() {
    let image = elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x2000, 0x4000)], &[]);
    refused(
        &image,
        &Target {
            protocol: Some(Protocol::Pvh),
            ..x86()
        },
        &["PVH", "64-bit Linux"],
    );
}

#[test]
fn a_truncated_elf_says_what_is_missing() {
    let mut image = elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x2000, 0x4000)], &[]);
    image.truncate(0x2000);
    refused(&image, &x86(), &["ends at byte 0x2000", "segment 0", "0x3000"]);
    image.truncate(70);
    refused(&image, &x86(), &["ends at byte 0x46", "program headers"]);
    image.truncate(10);
    refused(&image, &x86(), &["ELF header"]);
}

#[test]
fn segments_must_be_in_ram_above_the_boot_parameters_and_apart() {
    let one = |at, memory| elf(at, &[load(0x1000, at, 0x1000, memory)], &[]);
    refused(
        &one(255 * MIB, 2 * MIB),
        &x86(),
        &["not all RAM", "0x0..0x10000000", "more memory"],
    );
    refused(&one(u64::MAX - 0x1fff, 0x1000), &x86(), &["not all RAM"]);
    refused(&one(u64::MAX - 0xfff, 0x2000), &x86(), &["damaged"]);
    refused(&one(0x9_0000, 0x1000), &x86(), &["0x90000", "first MiB"]);
    refused(&one(16 * MIB, 0x800), &x86(), &["damaged"]);
    let two = [
        load(0x1000, 16 * MIB, 0x2000, 0x2000),
        load(0x1000, 16 * MIB + 0x1000, 0x1000, 0x1000),
    ];
    refused(&elf(16 * MIB, &two, &[]), &x86(), &["overlap"]);
    refused(&elf(16 * MIB, &[], &[]), &x86(), &["no segment"]);
    refused(
        &elf(1, &[load(0x1000, 16 * MIB, 0x1000, 0x1000)], &[]),
        &x86(),
        &["no entry point"],
    );
}

#[test]
fn another_machine_is_named() {
    let image = elf(16 * MIB, &[load(0x1000, 16 * MIB, 0x2000, 0x4000)], &[]);
    refused(&image, &target("aarch64", RAM), &["x86_64", "aarch64"]);
    let mut short = image.clone();
    short[4] = 1;
    refused(&short, &x86(), &["32-bit"]);
    let mut arm = image;
    arm[18] = 183;
    refused(&arm, &x86(), &["Image"]);
}

#[test]
fn what_is_no_kernel_is_shown() {
    refused(&b"#!/bin/sh\n".to_vec(), &x86(), &["no kernel", "23, 21"]);
    refused(&Vec::new(), &x86(), &["no kernel"]);
}

fn bzimage() -> Vec<u8> {
    let mut image = vec![0x90; 512 * 5 + 0x1000];
    image[..0x400].fill(0);
    image[0x1f1] = 4;
    put(&mut image, 0x1f4, &0x100u32.to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS\x0f\x02");
    image[0x211] = 1;
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x258, &(16 * MIB).to_le_bytes());
    put(&mut image, 0x260, &(40 * MIB as u32).to_le_bytes());
    image
}

#[test]
fn a_bzimage_goes_where_it_prefers_and_unpacks_itself() {
    let image = bzimage();
    let kernel = check(&image, &x86()).unwrap();
    assert_eq!(
        kernel.segments,
        [Segment {
            image: 0xa00..0x1a00,
            at: 16 * MIB,
        }]
    );
    assert_eq!((kernel.format, kernel.end()), (Format::BzImage, 56 * MIB));
    let header = image[0x1f1..0x26c].to_vec();
    assert_eq!(
        kernel.protocol,
        BootProtocol::Linux64 {
            entry: 16 * MIB + 0x200,
            setup_header: Some(header)
        }
    );
}

#[test]
fn a_bzimage_that_cannot_be_booted_says_why() {
    let change = |at: usize, bytes: &[u8]| {
        let mut image = bzimage();
        put(&mut image, at, bytes);
        image
    };
    refused(&change(0x206, &[0x0b, 2]), &x86(), &["2.11", "2.12"]);
    refused(&change(0x236, &[0, 0]), &x86(), &["64-bit"]);
    refused(&change(0x1fe, &[0, 0]), &x86(), &["0xaa55"]);
    refused(&change(0x258, &[0xff; 8]), &x86(), &["damaged"]);
    refused(&change(0x258, &[0; 8]), &x86(), &["first MiB"]);
    refused(
        &bzimage(),
        &target("x86_64", std::slice::from_ref(&(0..32 * MIB))),
        &["unpacks itself", "more memory"],
    );
    let mut short = bzimage();
    short.truncate(0x1000);
    refused(&short, &x86(), &["ends at byte 0x1000", "truncated"]);
}

fn arm64() -> Vec<u8> {
    let mut image = vec![0; 0x2000];
    put(&mut image, 16, &0x3000u64.to_le_bytes());
    put(&mut image, 24, &0xau64.to_le_bytes());
    put(&mut image, 56, b"ARM\x64");
    image
}

#[test]
fn an_arm64_image_goes_to_the_start_of_ram() {
    let ram = [0x8010_0000..0x9000_0000];
    let kernel = check(&arm64(), &target("aarch64", &ram)).unwrap();
    assert_eq!(kernel.protocol, BootProtocol::Arm64 { entry: 0x8020_0000 });
    assert_eq!(
        kernel.segments,
        [Segment {
            image: 0..0x2000,
            at: 0x8020_0000,
        }]
    );
    assert_eq!(kernel.end(), 0x8020_3000);
    refused(&arm64(), &x86(), &["aarch64", "x86_64"]);
    let mut big = arm64();
    big[24] = 1;
    refused(&big, &target("aarch64", &ram), &["big-endian"]);
    let mut huge = arm64();
    put(&mut huge, 16, &[0xff; 8]);
    refused(&huge, &target("aarch64", &ram), &["damaged"]);
}

#[test]
fn gzip_is_recognised_and_bounded() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, &arm64()).unwrap();
    let packed = encoder.finish().unwrap();
    assert_eq!(format(&packed, packed.len() as u64).unwrap(), Format::Gzip);
    assert!(matches!(check(&packed, &x86()), Err(KernelError::Compressed)));
    assert_eq!(decompress(packed.as_slice(), 0x2000).unwrap(), arm64());
    assert!(matches!(
        decompress(packed.as_slice(), 0x1fff),
        Err(KernelError::TooLarge { limit: 0x1fff })
    ));
    assert!(matches!(
        decompress(&packed[..packed.len() / 2], MIB),
        Err(KernelError::Decompress { .. })
    ));
}

#[test]
fn no_single_wrong_byte_leads_out_of_bounds() {
    for image in [pvh_image(), bzimage(), arm64()] {
        for at in 0..0x280 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut image = image.clone();
                image[at] = value;
                for machine in ["x86_64", "aarch64"] {
                    let Ok(kernel) = check(&image, &target(machine, RAM)) else {
                        continue;
                    };
                    for segment in &kernel.segments {
                        let end = segment.at + (segment.image.end - segment.image.start);
                        assert!(segment.image.end <= image.len() as u64 && end <= kernel.end());
                    }
                    assert!(kernel.end() <= 256 * MIB);
                }
            }
        }
    }
}
