//! Writes cpio archives in the `newc` format, which the kernel unpacks as its initial RAM file system.
//!
//! An [`Archive`] is a tree in memory. What is written depends on its content alone: entries are sorted, owned by
//! root and dated 1970, so the same input gives the same bytes. Never touches the file system.
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Why an entry cannot be part of an archive.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpioError {
    /// The path does not stay below the root, or is empty.
    #[error(
        "{0:?} cannot be a path of an archive: give a path below the root without `.`, `..` and NUL bytes, such as `etc/motd`"
    )]
    Path(String),
    /// Something else than a directory stands where a directory is needed.
    #[error("{path:?} cannot be added since {parent:?} is no directory: rename one of the two")]
    Parent {
        /// The entry that was to be added.
        path: String,
        /// The entry in its way.
        parent: String,
    },
    /// A directory with entries would become something else.
    #[error("{0:?} is a directory with entries and cannot be replaced by something else")]
    Occupied(String),
    /// The format counts bytes in 32 bits.
    #[error("{path:?} has {size} bytes, but a cpio archive holds files below 4 GiB: use a disk for it")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    CharacterDevice { major: u32, minor: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    permissions: u32,
    content: Content,
}

/// A file tree that can be written as a `newc` archive.
///
/// Directories above an entry come by themselves, with mode 0755. Adding a path twice keeps the later entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, or changes the permission bits of one.
    pub fn directory(&mut self, path: &str, permissions: u32) -> Result<(), CpioError> {
        self.insert(path, permissions, Content::Directory)
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, bytes: Vec<u8>) -> Result<(), CpioError> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(CpioError::TooLarge {
                path: path.to_string(),
                size: bytes.len(),
            });
        }
        self.insert(path, permissions, Content::File(bytes))
    }

    /// Adds a symbolic link; `target` is kept as it is given.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        if target.is_empty() || target.contains('\0') {
            return Err(CpioError::Path(target.to_string()));
        }
        self.insert(path, 0o777, Content::Symlink(target.to_string()))
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        self.insert(path, permissions, Content::CharacterDevice { major, minor })
    }

    /// Whether there is an entry at `path`.
    pub fn contains(&self, path: &str) -> bool {
        normal(path).is_ok_and(|path| self.entries.contains_key(&path))
    }

    /// The archive's bytes, padded to whole 512-byte blocks, so that archives may be joined.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size: usize = self
            .entries
            .values()
            .map(|entry| entry.content.bytes().len() + 256)
            .sum();
        let mut bytes = Vec::with_capacity(size);
        // Writing to memory cannot fail.
        let _ = self.write(&mut bytes);
        bytes
    }

    /// Writes the archive, padded to whole 512-byte blocks.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut to = Counted { to, written: 0 };
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut to, inode, path, entry)?;
        }
        let end = Entry {
            permissions: 0,
            content: Content::File(Vec::new()),
        };
        write_record(&mut to, (0, 0, 1), "TRAILER!!!", &end)?;
        to.pad(512)
    }

    fn insert(&mut self, path: &str, permissions: u32, content: Content) -> Result<(), CpioError> {
        let path = normal(path)?;
        for (at, _) in path.match_indices('/') {
            let Some(parent) = path.get(..at) else { continue };
            let entry = self.entries.entry(parent.to_string()).or_insert(Entry {
                permissions: 0o755,
                content: Content::Directory,
            });
            if entry.content != Content::Directory {
                return Err(CpioError::Parent {
                    parent: parent.to_string(),
                    path,
                });
            }
        }
        let below = format!("{path}/");
        if content != Content::Directory
            && self
                .entries
                .range(below.clone()..)
                .next()
                .is_some_and(|(next, _)| next.starts_with(&below))
        {
            return Err(CpioError::Occupied(path));
        }
        self.entries.insert(
            path,
            Entry {
                permissions: permissions & 0o7777,
                content,
            },
        );
        Ok(())
    }
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::File(bytes) => bytes,
            Self::Symlink(target) => target.as_bytes(),
            Self::Directory | Self::CharacterDevice { .. } => &[],
        }
    }
}

/// The path without leading and trailing slashes.
fn normal(path: &str) -> Result<String, CpioError> {
    let inner = path.trim_matches('/');
    let fine = inner
        .split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    // The kernel refuses longer names; the trailer's name ends an archive.
    if !fine || inner.len() >= 4096 || inner == "TRAILER!!!" {
        return Err(CpioError::Path(path.to_string()));
    }
    Ok(inner.to_string())
}

struct Counted<'a, W> {
    to: &'a mut W,
    written: u64,
}

impl<W: Write> Counted<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn pad(&mut self, block: u64) -> io::Result<()> {
        let missing = self.written.next_multiple_of(block) - self.written;
        self.written += missing;
        io::copy(&mut io::Read::take(io::repeat(0), missing), self.to).map(|_| ())
    }
}

fn write_entry(to: &mut Counted<'_, impl Write>, inode: u32, path: &str, entry: &Entry) -> io::Result<()> {
    let (kind, links) = match entry.content {
        Content::Directory => (0o040_000, 2),
        Content::File(_) => (0o100_000, 1),
        Content::Symlink(_) => (0o120_000, 1),
        Content::CharacterDevice { .. } => (0o020_000, 1),
    };
    write_record(to, (inode, kind, links), path, entry)
}

/// One header with its name and content. `identity` is inode, file type bits and number of links.
fn write_record(
    to: &mut Counted<'_, impl Write>,
    (inode, kind, links): (u32, u32, u32),
    name: &str,
    entry: &Entry,
) -> io::Result<()> {
    let content = entry.content.bytes();
    let (major, minor) = match entry.content {
        Content::CharacterDevice { major, minor } => (major, minor),
        _ => (0, 0),
    };
    let mode = kind | entry.permissions;
    let (size, name_size) = (content.len(), name.len() + 1);
    // Owner, group and time are 0, and so are the device that the file is on and the checksum.
    let header = format!(
        "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{name_size:08x}{:08x}",
        0, 0, 0, 0, 0, 0
    );
    to.put(header.as_bytes())?;
    to.put(name.as_bytes())?;
    to.put(&[0])?;
    to.pad(4)?;
    to.put(content)?;
    to.pad(4)
}

#[cfg(test)]
mod tests;
