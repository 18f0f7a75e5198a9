//! Messages about files. A request with a `root` takes its paths beneath that folder, and no symbolic link leads out of
//! it, whoever made it.
use super::Token;
use serde::{Deserialize, Serialize};

/// Ask for facts about a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Which.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// Of the file that a symbolic link leads to.
    #[serde(default)]
    pub follow: bool,
}

/// What a file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file with bytes.
    #[default]
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A newer agent's.
    #[serde(other)]
    Unknown,
}

/// Facts about a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-user-ID and its like.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Last change of its bytes, in nanoseconds since 1970.
    pub modified: i64,
    /// What a symbolic link says.
    #[serde(default)]
    pub target: Option<String>,
}

/// Ask for what a folder holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Which.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
}

/// Part of what a folder holds, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// Without `.` and `..`.
    pub entries: Vec<Entry>,
}

/// One of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name there. Bytes that are no UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub status: Status,
}

/// Ask for a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Which.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// The first byte.
    #[serde(default)]
    pub offset: u64,
    /// How many, at most; all without it.
    #[serde(default)]
    pub length: Option<u64>,
    /// Where they go.
    pub stream: Token,
}

/// Write a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Which.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// Permission bits of a new file; 0644 without.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Where in the file the first byte goes; the file keeps what it has elsewhere. Without it, the file has these bytes
    /// alone.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Fail if it is there already.
    #[serde(default)]
    pub new: bool,
    /// Where the bytes come from.
    pub stream: Token,
}

/// So much went over a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Bytes.
    pub bytes: u64,
}

/// Make a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    /// Which.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// Permission bits; 0755 without.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Make those above it too, and be content if it is there.
    #[serde(default)]
    pub parents: bool,
}

/// Rename, within a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    /// Which.
    pub from: String,
    /// Its new name; what is there goes.
    pub to: String,
    /// Folder that both are beneath.
    #[serde(default)]
    pub root: Option<String>,
}

/// Remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// Which. A symbolic link goes itself.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// With all that is in it.
    #[serde(default)]
    pub recursive: bool,
}

/// Tell of changes. Closing the stream ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// A folder, for what is right in it, or a file.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// Where the frames go.
    pub stream: Token,
}

/// A change, as a [`Kind::Notice`](super::wire::Kind::Notice) frame on the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Something happened to a file.
    Changed(Changed),
    /// Changes came faster than they were taken, and some are lost.
    Overflow(Overflow),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What.
    pub what: What,
    /// Name in the watched folder; empty for the watched file or folder itself.
    pub name: String,
    /// It is a folder.
    #[serde(default)]
    pub folder: bool,
    /// The same number for the two halves of a rename, otherwise 0.
    #[serde(default)]
    pub cookie: u32,
}

/// Kinds of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is new.
    Created,
    /// Its bytes changed.
    Modified,
    /// Whoever wrote it closed it.
    Written,
    /// Its permissions or its like changed.
    Attributes,
    /// It went by this name to another.
    MovedFrom,
    /// It came to this name from another.
    MovedTo,
    /// It is gone.
    Removed,
    /// Nothing follows: the watched file or its file system is gone.
    Gone,
    /// A newer agent's.
    #[serde(other)]
    Unknown,
}

/// Some changes are lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflow {}

/// Send a tree as a tar archive (ustar with pax headers).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Its root, a folder or a file. The names in the archive are relative to a folder; a file has its own.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// Where it goes.
    pub stream: Token,
}

/// Unpack a tar archive (ustar, pax or GNU). Nothing is written outside of the folder, whatever names and links the
/// archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpack {
    /// The folder, which must be there.
    pub path: String,
    /// Folder that paths are beneath.
    #[serde(default)]
    pub root: Option<String>,
    /// Keep the owners that the archive names; otherwise all belongs to root.
    #[serde(default)]
    pub owners: bool,
    /// Where it comes from.
    pub stream: Token,
}
