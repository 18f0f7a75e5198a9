#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
use super::{
    super::testing::{HIGH, memory},
    *,
};
use std::{io::Write, os::fd::AsFd};
use vm_memory::Bytes;

/// "abcdefghij" in three parts.
fn letters(memory: &GuestMemoryMmap) -> Buffers {
    let mut buffers = Buffers::default();
    for (at, bytes) in [(0x1000, &b"abc"[..]), (HIGH, b"d"), (0x2000, b"efghij")] {
        memory.write_slice(bytes, GuestAddress(at)).unwrap();
        buffers.add(memory, at, bytes.len() as u32).unwrap();
    }
    buffers
}

fn take(buffers: &mut Buffers) -> Vec<u8> {
    let mut all = vec![0; buffers.len()];
    assert!(buffers.read(&mut all));
    assert!(buffers.is_empty() && buffers.iovecs().is_empty());
    all
}

#[test]
fn buffers_split_anywhere() {
    let memory = memory();
    for keep in 0..=10 {
        let mut front = letters(&memory);
        let mut back = front.split_at(keep).unwrap();
        assert_eq!(take(&mut front), b"abcdefghij"[..keep]);
        assert_eq!(take(&mut back), b"abcdefghij"[keep..]);
    }
    assert!(letters(&memory).split_at(11).is_none());
    let mut front = letters(&memory);
    let mut one = [0];
    assert!(front.read(&mut one));
    assert_eq!(take(&mut front.split_at(8).unwrap()), b"j");
    assert!(front.split_at(9).is_none());
    assert_eq!(take(&mut front), b"bcdefghi");
}

#[test]
fn files_move_to_buffers_and_back() {
    let memory = memory();
    let path = std::env::temp_dir().join(format!("coracle-buffers-{}", std::process::id()));
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(letters(&memory).drain_to(file.as_fd(), 3).unwrap(), 10);
    file.write_all(b"xyz").unwrap();
    let mut target = letters(&memory);
    assert_eq!(target.fill_from(file.as_fd(), 1).unwrap(), 10);
    assert!(target.is_empty());
    assert_eq!(take(&mut letters_again(&memory)), b"yzabcdefgh");
    // Past the end: what there is, and the rest stays.
    let mut target = letters_again(&memory);
    assert_eq!(target.fill_from(file.as_fd(), 10).unwrap(), 3);
    assert_eq!(target.len(), 7);
    target.zero();
    assert_eq!(take(&mut letters_again(&memory)), b"hij\0\0\0\0\0\0\0");
}

/// The same buffers, with whatever they hold now.
fn letters_again(memory: &GuestMemoryMmap) -> Buffers {
    let mut buffers = Buffers::default();
    for (at, len) in [(0x1000, 3), (HIGH, 1), (0x2000, 6)] {
        buffers.add(memory, at, len).unwrap();
    }
    buffers
}
