//! Files for tests, and guest buffers to fill and to write.
use crate::virtio::{memory::Buffers, testing};
use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// A file in a folder of temporary ones, gone with the value.
#[derive(Debug)]
pub(crate) struct TempFile(PathBuf);

impl TempFile {
    /// A path where there is no file.
    pub(crate) fn none() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "coracle-disk-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }

    /// A file with these bytes.
    pub(crate) fn with(bytes: &[u8]) -> Self {
        let file = Self::none();
        fs::write(&file.0, bytes).unwrap();
        file
    }

    /// A file of `len` bytes, each of which says where it is and which file it is in.
    pub(crate) fn pattern(len: usize, seed: u8) -> Self {
        Self::with(&pattern(len, seed))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Bytes that differ from sector to sector and from seed to seed.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |i: usize| (i as u32).wrapping_mul(2_654_435_761).rotate_left(11) as u8 ^ seed;
    (0..len).map(byte).collect()
}

/// Guest memory with buffers of these lengths, one after the other, the first at `at`.
#[derive(Debug)]
pub(crate) struct Guest {
    memory: GuestMemoryMmap,
    at: u64,
    lens: Vec<usize>,
}

impl Guest {
    pub(crate) fn new(at: u64, lens: &[usize]) -> Self {
        Self {
            memory: testing::memory(),
            at,
            lens: lens.to_vec(),
        }
    }

    pub(crate) fn buffers(&self) -> Buffers {
        let mut buffers = Buffers::default();
        let mut at = self.at;
        for len in &self.lens {
            buffers.add(&self.memory, at, *len as u32).unwrap();
            at += *len as u64;
        }
        buffers
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.lens.iter().sum()];
        self.memory.read_slice(&mut bytes, GuestAddress(self.at)).unwrap();
        bytes
    }

    pub(crate) fn fill(&self, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(self.at)).unwrap();
    }
}
