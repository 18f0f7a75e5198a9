//! Unpacks an archive into a folder, and nowhere else.
use super::{
    super::{
        files::copy,
        place::{Place, make_folder},
    },
    BLOCK, MAX_TEXT,
    header::{self, Block, Header, Kind},
};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, linkat, makedev,
        mknodat, openat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
};

/// Reads entries to the end of the archive.
pub(super) fn unpack(from: &mut impl Read, folder: OwnedFd, owners: bool) -> io::Result<()> {
    let place = Place::beneath(folder);
    while let Some(header) = next(from)? {
        let made = Entry::new(&header, owners).and_then(|entry| entry.make(&place, from));
        made.map_err(|error| {
            let name = String::from_utf8_lossy(&header.name);
            io::Error::new(error.kind(), format!("{name:?}: {error}"))
        })?;
    }
    Ok(())
}

/// The next entry, with what the headers before it say of it.
fn next(from: &mut impl Read) -> io::Result<Option<Header>> {
    let (mut records, mut name, mut target) = (None, None, None);
    loop {
        let mut block: Block = [0; BLOCK];
        match from.read_exact(&mut block) {
            // Some archives lack their end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && records.is_none() && name.is_none() => {
                return Ok(None);
            }
            read => read?,
        }
        let Some((mut header, kind)) = header::parse(&block)? else {
            return Ok(None);
        };
        match kind {
            b'x' => records = Some(text(from, header.size)?),
            // For all entries that follow; nothing in it matters here.
            b'g' => drop(text(from, header.size)?),
            b'L' => name = Some(until_nul(text(from, header.size)?)),
            b'K' => target = Some(until_nul(text(from, header.size)?)),
            0 | b'0'..=b'7' => {
                header.name = name.unwrap_or(header.name);
                header.target = target.unwrap_or(header.target);
                if let Some(records) = records {
                    header::apply(&records, &mut header)?;
                }
                return Ok(Some(header));
            }
            other => {
                let text = format!("entries of type {:?} are not understood", char::from(other));
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
}

fn text(from: &mut impl Read, size: u64) -> io::Result<Vec<u8>> {
    if size > MAX_TEXT {
        let text = format!("a name or header of {size} bytes is more than the {MAX_TEXT} that are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; size as usize];
    from.read_exact(&mut bytes)?;
    skip(from, padding(size))?;
    Ok(bytes)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn skip(from: &mut impl Read, count: u64) -> io::Result<()> {
    match copy(from, &mut io::sink(), count)? {
        skipped if skipped == count => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// An entry whose names have been looked at.
struct Entry<'a> {
    header: &'a Header,
    /// Empty for the folder itself.
    path: String,
    owner: (u32, u32),
}

impl<'a> Entry<'a> {
    fn new(header: &'a Header, owners: bool) -> io::Result<Self> {
        Ok(Self {
            header,
            path: clean(&header.name)?,
            owner: if owners { (header.uid, header.gid) } else { (0, 0) },
        })
    }

    fn make(&self, place: &Place, from: &mut impl Read) -> io::Result<()> {
        let size = if self.header.kind == Kind::File {
            self.header.size
        } else {
            0
        };
        if self.path.is_empty() {
            // The folder itself stays as it is.
            return skip(from, size + padding(size));
        }
        if let Some((above, _)) = self.path.rsplit_once('/') {
            place.make_folders(above, 0o755)?;
        }
        let (parent, name) = place.parent(&self.path)?;
        match self.header.kind {
            Kind::Folder => return self.folder(&parent, name),
            Kind::File => self.file(&parent, name, from)?,
            Kind::HardLink => {
                let first = clean(&self.header.target)?;
                let (folder, first) = place.parent(&first)?;
                clear(&parent, name)?;
                // Owner and permissions are those of the first name.
                return Ok(linkat(&folder, first, &parent, name, AtFlags::empty())?);
            }
            Kind::Link => {
                let target = String::from_utf8(self.header.target.clone()).map_err(|_| not_text())?;
                clear(&parent, name)?;
                symlinkat(target, &parent, name)?;
            }
            Kind::CharDevice => self.node(&parent, name, FileType::CharacterDevice)?,
            Kind::BlockDevice => self.node(&parent, name, FileType::BlockDevice)?,
            Kind::Pipe => self.node(&parent, name, FileType::Fifo)?,
        }
        self.facts(&parent, name)
    }

    fn folder(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let mode = self.header.mode;
        match make_folder(parent.as_fd(), name, mode) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        // A link in its place is none.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(parent, name, flags, Mode::empty())?;
        self.own(parent, name)?;
        Ok(fchmod(folder, Mode::from_raw_mode(mode & 0o7777))?)
    }

    fn file(&self, parent: &OwnedFd, name: &str, from: &mut impl Read) -> io::Result<()> {
        clear(parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        let size = self.header.size;
        if copy(from, &mut file, size)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        skip(from, padding(size))?;
        self.own(parent, name)?;
        // After the owner, whose change takes set-user-ID away.
        Ok(fchmod(file, Mode::from_raw_mode(self.header.mode & 0o7777))?)
    }

    fn node(&self, parent: &OwnedFd, name: &str, kind: FileType) -> io::Result<()> {
        clear(parent, name)?;
        let (major, minor) = self.header.device;
        let mode = Mode::from_raw_mode(self.header.mode & 0o7777);
        Ok(mknodat(parent, name, kind, mode, makedev(major, minor))?)
    }

    fn own(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Owner and time.
    fn facts(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        if self.header.kind != Kind::File {
            self.own(parent, name)?;
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.header.modified,
                tv_nsec: 0,
            },
        };
        Ok(utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Removes what has the name of a new file. A folder stays, and stands in its way.
fn clear(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn not_text() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a name is no UTF-8")
}

/// A name relative to the folder, without `.` and double slashes. One with `..` is refused.
fn clean(name: &[u8]) -> io::Result<String> {
    let name = std::str::from_utf8(name).map_err(|_| not_text())?;
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        let text = "a name with `..` may lead out of the folder";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(parts.join("/"))
}
