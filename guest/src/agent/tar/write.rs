//! Writes the archive of a tree, without following links.
use super::{
    super::files::{MOST_DEEP, copy},
    BLOCK,
    header::{Header, Kind},
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, major, minor, openat, readlinkat, statat};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

/// Files with several names that are remembered; names of others beyond them become files of their own.
const MOST_LINKED: usize = 65_536;

/// A folder that is being packed.
struct Open {
    folder: OwnedFd,
    entries: Dir,
    name: Vec<u8>,
}

pub(super) struct Writer<W> {
    to: W,
    /// The first names of files with several, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            linked: HashMap::new(),
        }
    }

    /// A folder's contents, or one file under its own name, and the end of the archive.
    pub(super) fn tree(&mut self, tree: &OwnedFd, name: &str) -> io::Result<()> {
        let stat = fstat(tree)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            // What is only looked at cannot be read.
            let again = openat(tree, ".", FLAGS | OFlags::DIRECTORY, Mode::empty())?;
            self.header(&stat, Kind::Folder, b"./", &[])?;
            self.folders(again)?;
        } else {
            let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
            self.one(
                name.as_bytes(),
                &stat,
                || {
                    rustix::fs::open(
                        &path,
                        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                },
                || readlinkat(tree, "", Vec::new()),
            )?;
        }
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()
    }

    fn folders(&mut self, top: OwnedFd) -> io::Result<()> {
        let entries = Dir::read_from(&top)?;
        let mut path = vec![Open {
            folder: top,
            entries,
            name: Vec::new(),
        }];
        while let Some(open) = path.last_mut() {
            let Some(found) = open.entries.read() else {
                path.pop();
                continue;
            };
            let found = found?;
            let own = found.file_name();
            if matches!(own.to_bytes(), b"." | b"..") {
                continue;
            }
            // What went away meanwhile is not there.
            let Ok(stat) = statat(&open.folder, own, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let mut name = open.name.clone();
            name.extend_from_slice(own.to_bytes());
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                let flags = FLAGS | OFlags::DIRECTORY;
                let folder = openat(&open.folder, own, flags, Mode::empty())?;
                name.push(b'/');
                self.header(&stat, Kind::Folder, &name, &[])?;
                if path.len() >= MOST_DEEP {
                    return Err(io::Error::other(format!("folders are more than {MOST_DEEP} deep")));
                }
                let entries = Dir::read_from(&folder)?;
                path.push(Open { folder, entries, name });
            } else {
                let folder = &open.folder;
                let read = || openat(folder, own, FLAGS, Mode::empty());
                self.one(&name, &stat, read, || readlinkat(folder, own, Vec::new()))?;
            }
        }
        Ok(())
    }

    /// Anything but a folder.
    fn one(
        &mut self,
        name: &[u8],
        stat: &Stat,
        open: impl FnOnce() -> rustix::io::Result<OwnedFd>,
        target: impl FnOnce() -> rustix::io::Result<std::ffi::CString>,
    ) -> io::Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => return self.header(stat, Kind::Link, name, target()?.to_bytes()),
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Pipe,
            // A socket is its program's, and means nothing elsewhere.
            _ => return Ok(()),
        };
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key).cloned() {
                return self.header(stat, Kind::HardLink, name, &first);
            }
            if self.linked.len() < MOST_LINKED {
                self.linked.insert(key, name.to_vec());
            }
        }
        if kind != Kind::File {
            return self.header(stat, kind, name, &[]);
        }
        let mut file = File::from(open()?);
        self.header(stat, kind, name, &[])?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let copied = copy(&mut file, &mut self.to, size)?;
        // A file that has become shorter keeps its announced length, and all are padded to whole blocks.
        let missing = size.next_multiple_of(BLOCK as u64) - copied;
        copy(&mut io::repeat(0), &mut self.to, missing)?;
        Ok(())
    }

    fn header(&mut self, stat: &Stat, kind: Kind, name: &[u8], target: &[u8]) -> io::Result<()> {
        let header = Header {
            kind,
            name: name.to_vec(),
            target: target.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if kind == Kind::File {
                u64::try_from(stat.st_size).unwrap_or(0)
            } else {
                0
            },
            modified: stat.st_mtime,
            device: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                (major(stat.st_rdev), minor(stat.st_rdev))
            } else {
                (0, 0)
            },
        };
        self.to.write_all(&header.encode())
    }
}

/// Neither links are followed nor pipes waited for.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);
