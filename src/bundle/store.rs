//! Files that appear whole or not at all: written beside their place, then renamed, under a lock of their folder.
//!
//! A process that is killed midway leaves the old content and a temporary folder that the next one removes. Never
//! deletes what it did not make.
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What the names of unfinished files and folders begin with.
const UNFINISHED: &str = ".unfinished-";

/// Why files could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {wish} {}: see that the folder exists, is writable and has room", path.display())]
pub struct StoreError {
    wish: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StoreError {
    /// `wish` is a verb that takes `path`.
    pub(crate) fn io(wish: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            wish,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// A folder that no other process changes while this value lives. The kernel frees it when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes `folder` if need be, waits for it, and removes what a killed process left in it.
    pub(crate) fn take(folder: &Path, progress: &dyn Fn(&str)) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(|e| StoreError::io("make", folder, e))?;
        let path = folder.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| StoreError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress(&format!(
                    "waiting for another process that works in {}",
                    folder.display()
                ));
                file.lock().map_err(|e| StoreError::io("lock", &path, e))?;
            }
            Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &path, e)),
        }
        let entries = fs::read_dir(folder).map_err(|e| StoreError::io("read", folder, e))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                remove(&entry.path())?;
            }
        }
        Ok(Self { _file: file })
    }
}

/// Lets `make` fill a new folder and puts it in the place of `folder`, whose parent the caller has locked.
pub(crate) fn replace_folder<E: From<StoreError>>(
    folder: &Path,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let new = unfinished(folder, "new");
    remove(&new)?;
    fs::create_dir_all(&new).map_err(|e| StoreError::io("make", &new, e))?;
    if let Err(error) = make(&new) {
        remove(&new)?;
        return Err(error);
    }
    sync_tree(&new)?;
    exchange(&new, folder)?;
    Ok(remove(&new)?)
}

/// Puts `new` in the place of `folder` in one step; what was there, if anything, is at `new` then.
fn exchange(new: &Path, folder: &Path) -> Result<(), StoreError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let exchanged = match renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOENT) => fs::rename(new, folder),
        // Some network file systems cannot exchange; there the folder is missing for a moment.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let old = unfinished(folder, "old");
            fs::rename(folder, &old)
                .and_then(|()| fs::rename(new, folder))
                .and_then(|()| fs::rename(&old, new))
        }
        other => other.map_err(io::Error::from),
    };
    exchanged.map_err(|e| StoreError::io("replace", folder, e))
}

/// Writes `bytes` to the file in one step.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| StoreError::io("make", parent, e))?;
    }
    let new = unfinished(path, &std::process::id().to_string());
    fs::write(&new, bytes).map_err(|e| StoreError::io("write", &new, e))?;
    fs::rename(&new, path).map_err(|e| StoreError::io("replace", path, e))
}

fn unfinished(path: &Path, mark: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{UNFINISHED}{mark}-{name}"))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Files reach the disk before the rename that makes them visible; only the top level, where bundles have theirs.
fn sync_tree(folder: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(folder).map_err(|e| StoreError::io("read", folder, e))?;
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
    {
        let path = entry.path();
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|e| StoreError::io("write", &path, e))?;
    }
    Ok(())
}

/// Pretty JSON with a final newline. The types of this module's users always serialise.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// SHA-256 of the bytes in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, which may be long.
pub(crate) fn sha256_of_file(path: &Path) -> Result<String, StoreError> {
    let hash = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hasher.finalize())),
                n => hasher.update(buffer.get(..n).unwrap_or_default()),
            }
        }
    };
    hash().map_err(|e| StoreError::io("read", path, e))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A folder of a test's own, removed with the value.
#[cfg(test)]
pub(crate) struct Scratch(PathBuf);

#[cfg(test)]
impl Scratch {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "coracle-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_and_a_failure_leaves_the_old_one() {
        let scratch = Scratch::new();
        let folder = scratch.path().join("bundle");
        let make = |text: &'static str| {
            move |new: &Path| -> Result<(), StoreError> {
                fs::write(new.join("file"), text).map_err(|e| StoreError::io("write", new, e))
            }
        };
        replace_folder(&folder, make("one")).unwrap();
        replace_folder(&folder, make("two")).unwrap();
        let failed = replace_folder(&folder, |new| {
            make("three")(new)?;
            Err(StoreError::io("finish", new, io::ErrorKind::Other.into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "two");
        assert_eq!(
            fs::read_dir(scratch.path()).unwrap().count(),
            1,
            "nothing unfinished is left"
        );
    }

    #[test]
    fn the_next_holder_of_the_lock_removes_what_a_killed_process_left() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path().join(".unfinished-new-bundle/deep")).unwrap();
        fs::write(scratch.path().join("kept"), "").unwrap();
        drop(Lock::take(scratch.path(), &|_| {}).unwrap());
        let mut left: Vec<_> = fs::read_dir(scratch.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".lock", "kept"]);
    }

    #[test]
    fn a_second_holder_waits_and_says_so() {
        let scratch = Scratch::new();
        let first = Lock::take(scratch.path(), &|_| {}).unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            let second =
                threads.spawn(|| Lock::take(scratch.path(), &move |text| told.send(text.to_string()).unwrap()));
            assert!(hears.recv().unwrap().contains("waiting"));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let scratch = Scratch::new();
        let path = scratch.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            (sha256(b"abc").as_str(), sha256_of_file(&path).unwrap().as_str()),
            (abc, abc)
        );
    }
}
