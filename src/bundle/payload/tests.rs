use super::*;

fn kernel() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.extend((0..40_000u32).flat_map(|n| (n / 7).to_le_bytes()));
    elf
}

/// A bzImage with two setup sectors around a payload.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 3 * 512 + 16];
    image[0x1f1] = 2;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image.extend([0xcc; 64]);
    image
}

/// The legacy frame in blocks of 64 KiB, with the size behind as the kernel's build appends it.
pub(crate) fn lz4(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(1 << 16) {
        let compressed = lz4_flex::block::compress(block);
        frame.extend((compressed.len() as u32).to_le_bytes());
        frame.extend(compressed);
    }
    frame.extend((data.len() as u32).to_le_bytes());
    frame
}

fn piped(name: &str, options: &[&str], data: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(name)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let output = thread::scope(|threads| {
        threads.spawn(move || input.write_all(data));
        child.wait_with_output().unwrap()
    });
    output.status.success().then_some(output.stdout)
}

#[test]
fn the_kernel_comes_out_of_each_compression_with_the_size_behind_it() {
    let kernel = kernel();
    assert_eq!(vmlinux(&bzimage(&lz4(&kernel))).unwrap(), kernel);
    assert_eq!(vmlinux(&bzimage(&kernel)).unwrap(), kernel);
    let mut tried = 0;
    for (name, options) in [
        ("gzip", &["-c"][..]),
        ("zstd", &["-c", "-q"]),
        ("xz", &["-c", "--check=crc32", "--x86", "--lzma2"]),
        ("bzip2", &["-c"]),
        ("lz4", &["-c", "-l", "-q"]),
    ] {
        let Some(mut data) = piped(name, options, &kernel) else {
            eprintln!("skipped: there is no `{name}` program here");
            continue;
        };
        if name != "gzip" {
            data.extend((kernel.len() as u32).to_le_bytes());
        }
        assert!(vmlinux(&bzimage(&data)).unwrap() == kernel, "{name}");
        tried += 1;
    }
    assert!(tried >= 1, "gzip at least is everywhere");
}

#[test]
fn cut_and_foreign_images_end_as_errors() {
    let whole = bzimage(&lz4(&kernel()));
    assert!(matches!(vmlinux(b"hello"), Err(PayloadError::NoBzImage)));
    for length in [0x250, 0x600, whole.len() - 80] {
        assert!(
            matches!(vmlinux(&whole[..length]), Err(PayloadError::Truncated { .. })),
            "{length}"
        );
    }
    assert!(matches!(
        vmlinux(&bzimage(b"what is this")),
        Err(PayloadError::UnknownFormat(_))
    ));
    assert!(matches!(
        vmlinux(&bzimage(&lz4(b"no kernel"))),
        Err(PayloadError::NoElf)
    ));
}

#[test]
fn damaged_lz4_data_is_refused() {
    let whole = lz4(&kernel());
    for length in [4, 6, 1000, whole.len() - 5] {
        assert!(
            matches!(decompress(&whole[..length]), Err(PayloadError::Broken { .. })),
            "{length}"
        );
    }
    let mut endless = vec![0x02, 0x21, 0x4c, 0x18];
    endless.extend(u32::MAX.to_le_bytes());
    endless.extend([0; 100]);
    assert!(decompress(&endless).is_err());
}
