//! Copies a directory of the image into an empty one: mode, owner, time of change and content of files, directories,
//! links, pipes and devices. The image is hostile: names are never followed, and the depth is bounded.
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

/// Directories within one another; each holds two descriptors open.
const DEPTH: usize = 100;

/// Copies what is in `from`, and mode and owner of `from` itself.
pub(super) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    level(from, to, DEPTH)
}

fn level(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Errno::NAMETOOLONG.into());
    };
    let listed = fs::openat(
        from,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for entry in fs::Dir::new(listed)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let found = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        one(from, to, name, &found, depth)?;
    }
    let found = fs::fstat(from)?;
    let to = fs::openat(
        to,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    fs::fchown(
        &to,
        Some(Uid::from_raw(found.st_uid)),
        Some(Gid::from_raw(found.st_gid)),
    )?;
    fs::fchmod(&to, Mode::from_raw_mode(found.st_mode & 0o7777))?;
    Ok(fs::futimens(&to, &times(&found))?)
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, found: &Stat, depth: usize) -> io::Result<()> {
    let kind = FileType::from_raw_mode(found.st_mode);
    let open = |dir: BorrowedFd<'_>, flags| -> io::Result<OwnedFd> {
        Ok(fs::openat(
            dir,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?)
    };
    match kind {
        FileType::Directory => {
            fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            return level(open(from, flags)?.as_fd(), open(to, flags)?.as_fd(), depth);
        }
        FileType::RegularFile => {
            // Not to wait for the other end of a pipe that took the file's place.
            let mut source = File::from(open(from, OFlags::RDONLY | OFlags::NONBLOCK)?);
            if !source.metadata()?.is_file() {
                // What took its place may be a disk of the host's.
                return Err(Errno::AGAIN.into());
            }
            let mut copy = File::from(open(to, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?);
            io::copy(&mut source, &mut copy)?;
        }
        FileType::Symlink => fs::symlinkat(fs::readlinkat(from, name, Vec::new())?, to, name)?,
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, found.st_rdev)?;
        }
        // A socket is nothing without the process that listens.
        _ => return Ok(()),
    }
    let (user, group) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    fs::chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        fs::chmodat(to, name, Mode::from_raw_mode(found.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(fs::utimensat(to, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(found: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(found.st_atime, found.st_atime_nsec),
        last_modification: time(found.st_mtime, found.st_mtime_nsec),
    }
}
