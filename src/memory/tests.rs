use super::*;
use std::io::{Read, Seek, Write};
use vm_memory::Bytes;

const MIB: u64 = 1 << 20;

/// One region from address 0.
fn low(bytes: u64, huge_pages: HugePages) -> Result<GuestRam, MemoryError> {
    ram(std::slice::from_ref(&(0..bytes)), huge_pages)
}

fn ram(ranges: &[Range<u64>], huge_pages: HugePages) -> Result<GuestRam, MemoryError> {
    let bytes = ranges.iter().map(|r| r.end - r.start).sum();
    GuestRam::reserve(MemorySpec { bytes, huge_pages }, ranges.to_vec())
}

/// An anonymous file with these bytes.
fn file(bytes: &[u8]) -> File {
    let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

fn read(ram: &GuestRam, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.view().read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn chain(error: MemoryError) -> String {
    let source = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[test]
fn huge_pages_of_guest_and_host_fall_together() {
    for huge_pages in [HugePages::None, HugePages::Transparent] {
        let ram = ram(&[0..MIB, 4 << 30..(4 << 30) + 3 * MIB], huge_pages).unwrap();
        for range in ram.ranges() {
            let host = ram.view().get_slice(GuestAddress(range.start), 1).unwrap();
            assert_eq!(host.ptr_guard().as_ptr() as u64 % HUGE, 0);
        }
        assert_eq!(read(&ram, MIB - 1, 1), [0], "fresh memory is zero");
        assert!(
            ram.view().get_slice(GuestAddress(MIB), 1).is_err(),
            "the gap is none of it"
        );
    }
}

#[test]
fn bytes_of_a_file_are_copied_to_their_place_and_nowhere_else() {
    let ram = low(MIB, HugePages::None).unwrap();
    let file = file(b"0123456789");
    ram.copy_in("the kernel", &file, 2..7, 0x1001).unwrap();
    assert_eq!(read(&ram, 0x1000, 7), b"\x0023456\x00");
    ram.copy_in("the kernel", &file, 0..10, MIB - 10).unwrap();
    assert_eq!(read(&ram, MIB - 10, 10), b"0123456789");
}

#[test]
fn what_does_not_fit_or_is_not_there_is_refused() {
    let ram = low(MIB, HugePages::None).unwrap();
    let file = file(&[1; 8192]);
    for at in [MIB - 8191, MIB, u64::MAX - 100] {
        let error = ram.copy_in("the initrd", &file, 0..8192, at).unwrap_err();
        assert!(matches!(error, MemoryError::Place { .. }), "{error:?}");
        assert!(error.to_string().contains("cannot place the initrd"), "{error}");
    }
    let error = ram.map_in("the kernel", &file, 0..8192, MIB - 4096).unwrap_err();
    assert!(matches!(error, MemoryError::Place { .. }), "{error:?}");
    let error = ram.copy_in("the kernel", &file, 0..8193, 0).unwrap_err();
    assert!(chain(error).contains("cannot read the kernel; the file shrank"));
}

#[test]
fn mapped_pages_show_the_file_and_keep_writes_to_themselves() {
    let ram = low(MIB, HugePages::None).unwrap();
    let mut file = file(&[vec![1; 4096], vec![2; 4096], vec![3; 4096]].concat());
    ram.map_in("the kernel", &file, 4096..3 * 4096, 0x10000).unwrap();
    assert_eq!(read(&ram, 0x10000 - 1, 2), [0, 2]);
    assert_eq!(read(&ram, 0x11fff, 2), [3, 0]);
    ram.view().write_slice(&[9; 100], GuestAddress(0x10000)).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[4096..4196], [2; 100], "the file is as it was");
}

#[test]
fn memory_that_the_host_lacks_is_refused_with_the_way_out() {
    let error = low(1 << 55, HugePages::None).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("cannot reserve 34359738368 MiB") && text.contains("mem_size_mib"),
        "{text}"
    );
    // More pages than any pool has.
    let error = low(1 << 46, HugePages::Hugetlb2M).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("vm.nr_hugepages=33554432"), "{text}");
}
