//! The erratum of QEMU's SVM emulation, and a private copy of QEMU without it. Writes to the cache only.
//!
//! After injecting an external interrupt into a nested guest, `helper_vmrun` (target/i386/tcg/sysemu/svm_helper.c)
//! leaves the vector in `exception_index`. If the CPU leaves its loop before the next #VMEXIT, the interrupt is
//! delivered a second time, as a fault that ignores IF, and the nested guest deadlocks sooner or later. The copy has
//! the one store that does it replaced by a nop of the same length.
use super::HostError;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What is known of a QEMU binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Erratum {
    /// The copy at this path is free of it.
    Patched(PathBuf),
    /// The code does not look as known: fixed, or another build. To be run as it is, with a warning.
    Unknown,
}

/// `nopw 0(%rax,%rax)`, six bytes.
const NOP: [u8; 6] = [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Makes or finds the patched copy of `qemu` below `cache`.
pub(crate) fn patched_copy(qemu: &Path, cache: &Path) -> Result<Erratum, HostError> {
    let file = |wish, path: &Path| {
        let path = path.to_path_buf();
        move |source| HostError::File { wish, path, source }
    };
    let mut image = fs::read(qemu).map_err(file("read", qemu))?;
    // The first half of it names the copy well enough.
    let digest = Sha256::digest(&image);
    let digest = digest.iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let dir = cache.join("qemu").join(digest);
    let copy = dir.join("qemu-system-x86_64");
    if copy.is_file() {
        return Ok(Erratum::Patched(copy));
    }
    let Some(at) = find_store(&image) else {
        return Ok(Erratum::Unknown);
    };
    if let Some(store) = image.get_mut(at..at + NOP.len()) {
        store.copy_from_slice(&NOP);
    }
    fs::create_dir_all(&dir).map_err(file("create", &dir))?;
    // Two processes may do this at once; each renames a whole copy into place.
    let temporary = dir.join(format!("unfinished-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut to = File::options()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&temporary)?;
        to.write_all(&image)?;
        drop(to);
        fs::rename(&temporary, &copy)
    };
    write().map_err(file("write", &copy))?;
    Ok(Erratum::Patched(copy))
}

/// Whether this QEMU has the erratum in the form that can be worked around.
pub(crate) fn is_known(qemu: &Path) -> std::io::Result<bool> {
    Ok(find_store(&fs::read(qemu)?).is_some())
}

/// A byte of a pattern: `None` matches all.
type Pattern = [Option<u8>];

/// `mov %esi, disp(%rbx)` with a negative displacement: the store.
const STORE: &Pattern = &[Some(0x89), Some(0xb3), None, None, Some(0xff), Some(0xff)];
/// `movl $0, disp(%rbx)`, then `movq $-1, disp(%rbx)`: `exception_is_int` and `exception_next_eip`.
const AFTER: &Pattern = &[
    Some(0xc7),
    Some(0x83),
    None,
    None,
    Some(0),
    Some(0),
    Some(0),
    Some(0),
    Some(0),
    Some(0),
    Some(0x48),
    Some(0xc7),
    Some(0x83),
    None,
    None,
    Some(0),
    Some(0),
    Some(0xff),
    Some(0xff),
    Some(0xff),
    Some(0xff),
];
/// Bytes between `movzbl reg, %esi` and the store: the store of `error_code`.
const BETWEEN: std::ops::RangeInclusive<usize> = 6..=8;

/// Offset of the store if the code around it is there exactly once.
fn find_store(image: &[u8]) -> Option<usize> {
    let mut found = None;
    for (at, window) in image.windows(STORE.len() + AFTER.len()).enumerate() {
        if window.first() != Some(&0x89) || !matches(window, STORE) {
            continue;
        }
        let after = window.get(STORE.len()..).unwrap_or_default();
        if matches(after, AFTER) && BETWEEN.into_iter().any(|gap| is_vector_load(image, at, gap)) {
            if found.is_some() {
                return None;
            }
            found = Some(at);
        }
    }
    found
}

/// `movzbl %r8b..%r15b, %esi`, `gap` bytes before the store.
fn is_vector_load(image: &[u8], store: usize, gap: usize) -> bool {
    let load = store.checked_sub(gap + 4).and_then(|start| image.get(start..start + 4));
    matches!(load, Some([0x41, 0x0f, 0xb6, 0xf0..=0xf7]))
}

fn matches(bytes: &[u8], pattern: &Pattern) -> bool {
    bytes.len() >= pattern.len() && pattern.iter().zip(bytes).all(|(p, b)| p.is_none_or(|p| p == *b))
}

#[cfg(test)]
mod tests;
