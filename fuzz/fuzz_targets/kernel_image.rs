//! Whatever the bytes, the parser refuses the image or gives segments that lie in the image, in RAM and apart.
#![no_main]
use coracle_arch::kernel::{self, Protocol, Target};
use libfuzzer_sys::fuzz_target;

const MIB: u64 = 1 << 20;

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (choice, mib, image) = input;
    let ram = [0..u64::from(mib) * MIB, 0x1_0000_0000..0x1_1000_0000];
    let protocol = [
        None,
        Some(Protocol::Linux64),
        Some(Protocol::Pvh),
        Some(Protocol::Arm64),
    ][usize::from(choice >> 1 & 3)];
    let machine = ["x86_64", "aarch64"][usize::from(choice & 1)];
    let len = image.len() as u64;
    match kernel::parse(
        &image,
        len,
        &Target {
            machine,
            ram: &ram,
            protocol,
        },
    ) {
        Ok(kernel) => {
            let inside = |start: u64, end: u64| ram.iter().any(|ram| ram.start <= start && end <= ram.end);
            let mut free = kernel.span.start;
            for segment in &kernel.segments {
                assert!(segment.image.start <= segment.image.end && segment.image.end <= len);
                let end = segment.at + (segment.image.end - segment.image.start);
                assert!(free <= segment.at && end <= kernel.end() && inside(segment.at, end));
                free = end;
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = kernel::decompress(image.as_slice(), MIB);
});
