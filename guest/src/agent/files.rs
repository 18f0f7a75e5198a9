//! Files: look, list, read, write, make, rename, remove. Each call runs on a thread that may wait.
use super::{
    outbox::{Asker, DONE, Reply, failure, invalid, refused},
    place::{Place, absolute, make_folder},
    vsock,
};
use coracle_protocol::sandbox::{
    Answer, Failed, Reason,
    file::{Entries, Entry, Kind, List, Mkdir, Moved, Read, Remove, Rename, Stat, Status, Write},
};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, openat, readlinkat, renameat, statat, unlinkat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::{AsFd, OwnedFd},
};

/// Entries of a folder in one message.
const ENTRIES: usize = 256;

/// Bytes that are copied at once.
pub(super) const PIECE: usize = 128 << 10;

/// Folders within each other that are removed or packed, at most; each is an open file meanwhile.
pub(super) const MOST_DEEP: usize = 1024;

/// For `map_err`: names the wish and the path.
pub(super) fn about<E: Into<io::Error>>(wish: &str, path: &str) -> impl FnOnce(E) -> Failed {
    refused(format!("{wish} {path}"))
}

fn place(root: Option<&str>, path: &str) -> Result<Place, Failed> {
    absolute(path)?;
    Place::new(root)
}

pub(super) fn stat(wish: Stat) -> Reply {
    let place = place(wish.root.as_deref(), &wish.path)?;
    let fail = || about("look at", &wish.path);
    let file = place.look(&wish.path, wish.follow).map_err(fail())?;
    let mut status = status_of(&fstat(&file).map_err(fail())?);
    if status.kind == Kind::Link {
        status.target = Some(target_of(&file, "").map_err(fail())?);
    }
    Ok(Answer::Status(status))
}

pub(super) fn list(wish: List, asker: &Asker) -> Reply {
    let place = place(wish.root.as_deref(), &wish.path)?;
    let fail = || about("list", &wish.path);
    let folder = place
        .open(&wish.path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
        .map_err(fail())?;
    let mut entries = Vec::new();
    for found in Dir::read_from(&folder).map_err(fail())? {
        let found = found.map_err(fail())?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What went away meanwhile is not there.
        let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let mut status = status_of(&stat);
        if status.kind == Kind::Link {
            status.target = target_of(&folder, name).ok();
        }
        entries.push(Entry {
            name: name.to_string_lossy().into_owned(),
            status,
        });
        if entries.len() == ENTRIES {
            let entries = std::mem::take(&mut entries);
            asker
                .part(&Answer::Entries(Entries { entries }))
                .map_err(about("list", &wish.path))?;
        }
    }
    Ok(Answer::Entries(Entries { entries }))
}

pub(super) fn status_of(stat: &rustix::fs::Stat) -> Status {
    Status {
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Pipe,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => Kind::Unknown,
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: i64::try_from(i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec))
            .unwrap_or(i64::MAX),
        target: None,
    }
}

pub(super) fn target_of(folder: &OwnedFd, name: impl rustix::path::Arg) -> rustix::io::Result<String> {
    Ok(readlinkat(folder, name, Vec::new())?.to_string_lossy().into_owned())
}

pub(super) fn read(wish: Read) -> Reply {
    let place = place(wish.root.as_deref(), &wish.path)?;
    let fail = || about("read", &wish.path);
    // A named pipe must not be waited for.
    let file = place
        .open(&wish.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, 0)
        .map_err(fail())?;
    if FileType::from_raw_mode(fstat(&file).map_err(fail())?.st_mode).is_dir() {
        return Err(fail()(Errno::ISDIR));
    }
    let mut file = File::from(file);
    if wish.offset > 0 {
        file.seek(SeekFrom::Start(wish.offset))
            .map_err(about("read", &wish.path))?;
    }
    let mut to = File::from(vsock::stream(wish.stream).map_err(refused("open the stream"))?);
    let bytes = copy(&mut file, &mut to, wish.length.unwrap_or(u64::MAX)).map_err(about("read", &wish.path))?;
    Ok(Answer::Moved(Moved { bytes }))
}

pub(super) fn write(wish: Write) -> Reply {
    let place = place(wish.root.as_deref(), &wish.path)?;
    let fail = || about("write", &wish.path);
    let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    flags.set(OFlags::TRUNC, wish.offset.is_none());
    flags.set(OFlags::EXCL, wish.new);
    let file = place
        .open(&wish.path, flags, wish.mode.unwrap_or(0o644))
        .map_err(fail())?;
    if let Some(mode) = wish.mode {
        fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(fail())?;
    }
    let mut file = File::from(file);
    if let Some(offset) = wish.offset.filter(|&offset| offset > 0) {
        file.seek(SeekFrom::Start(offset)).map_err(about("write", &wish.path))?;
    }
    let mut from = File::from(vsock::stream(wish.stream).map_err(refused("open the stream"))?);
    let bytes = copy(&mut from, &mut file, u64::MAX).map_err(about("write", &wish.path))?;
    Ok(Answer::Moved(Moved { bytes }))
}

/// Copies up to so many bytes; answers how many there were.
pub(super) fn copy(from: &mut impl io::Read, to: &mut impl io::Write, most: u64) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut copied = 0;
    while copied < most {
        let left = usize::try_from(most - copied).unwrap_or(usize::MAX).min(PIECE);
        let count = match from.read(piece.get_mut(..left).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(piece.get(..count).unwrap_or_default())?;
        copied += count as u64;
    }
    Ok(copied)
}

pub(super) fn mkdir(wish: Mkdir) -> Reply {
    let place = place(wish.root.as_deref(), &wish.path)?;
    let fail = || about("make the folder", &wish.path);
    let mode = wish.mode.unwrap_or(0o755);
    if wish.parents {
        place.make_folders(&wish.path, mode).map_err(fail())?;
    } else {
        let (parent, name) = place.parent(&wish.path).map_err(fail())?;
        make_folder(parent.as_fd(), name, mode).map_err(fail())?;
    }
    Ok(DONE)
}

pub(super) fn rename(wish: Rename) -> Reply {
    absolute(&wish.to)?;
    let place = place(wish.root.as_deref(), &wish.from)?;
    let fail = || about("rename", &wish.from);
    let (from, old) = place.parent(&wish.from).map_err(fail())?;
    let (to, new) = place.parent(&wish.to).map_err(about("rename to", &wish.to))?;
    renameat(from, old, to, new).map_err(fail())?;
    Ok(DONE)
}

pub(super) fn remove(wish: Remove) -> Reply {
    let place = place(wish.root.as_deref(), &wish.path)?;
    let fail = || about("remove", &wish.path);
    let (parent, name) = place.parent(&wish.path).map_err(fail())?;
    let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail())?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        unlinkat(&parent, name, AtFlags::empty()).map_err(fail())?;
    } else if wish.recursive {
        remove_tree(&parent, name)?;
    } else {
        unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(fail())?;
    }
    Ok(DONE)
}

/// Removes a folder with all that is in it, and follows no links.
fn remove_tree(parent: &OwnedFd, name: &str) -> Result<(), Failed> {
    let fail = || about("remove all of", name);
    let open = |parent: &OwnedFd, name: &std::ffi::CStr| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(parent, name, flags, Mode::empty())
    };
    let top = std::ffi::CString::new(name).map_err(|_| invalid("a name with a NUL byte"))?;
    let first = open(parent, &top).map_err(fail())?;
    let mut path = vec![(first, top)];
    while let Some((folder, _)) = path.last() {
        let deeper = empty(folder).map_err(fail())?;
        if let Some(name) = deeper {
            if path.len() >= MOST_DEEP {
                let text = format!("cannot remove all of it: folders are more than {MOST_DEEP} deep");
                return Err(failure(Reason::TooMany, text));
            }
            let folder = open(folder, &name).map_err(fail())?;
            path.push((folder, name));
        } else if let Some((_, name)) = path.pop() {
            let above = path.last().map_or(parent, |(folder, _)| folder);
            unlinkat(above, &name, AtFlags::REMOVEDIR).map_err(fail())?;
        }
    }
    Ok(())
}

/// Removes what is in a folder up to the first folder that is not empty, and answers its name.
fn empty(folder: &OwnedFd) -> rustix::io::Result<Option<std::ffi::CString>> {
    for found in Dir::read_from(folder)? {
        let found = found?;
        let name = found.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => match unlinkat(folder, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_owned())),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
