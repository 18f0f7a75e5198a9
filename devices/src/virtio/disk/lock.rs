//! Locks on disks against use by two writers, with the name of the other user.
//!
//! Advisory `flock`s: they hold between processes as well as between two disks of one VM, and end with the descriptor,
//! however a process dies.
use super::DiskError;
use rustix::fs::{FlockOperation, flock, fstat, major, minor};
use std::{fs, fs::File, path::Path, process};

/// Takes the lock: many readers, or one writer.
pub(super) fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), DiskError> {
    let (operation, rule) = if read_only {
        (
            FlockOperation::NonBlockingLockShared,
            "what is written to cannot be read by others",
        )
    } else {
        (
            FlockOperation::NonBlockingLockExclusive,
            "a disk that is written to has one user",
        )
    };
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DiskError::Locked {
                    path: path.to_owned(),
                    by: holder(file).unwrap_or_else(|| "another process".to_owned()),
                    rule,
                });
            }
            Err(error) => {
                return Err(DiskError::Io {
                    path: path.to_owned(),
                    doing: "lock",
                    source: error.into(),
                });
            }
        }
    }
}

/// Gives the lock up, whoever else has the descriptor.
pub(super) fn unlock(file: &File) {
    // Its last descriptor would do the same.
    let _ = flock(file, FlockOperation::Unlock);
}

/// Who holds a lock on the file, by the kernel's list.
fn holder(file: &File) -> Option<String> {
    let stat = fstat(file).ok()?;
    let id = format!("{:02x}:{:02x}:{}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1).filter(|word| *word != "->");
        let kind = words.next()?;
        let (pid, at) = (words.nth(2)?, words.next()?);
        (kind == "FLOCK" && at == id).then_some(pid)
    })?;
    if pid == process::id().to_string() {
        return Some("another disk of this process".to_owned());
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

#[cfg(test)]
mod tests;
