//! The system calls by which a container's view is made, behind a trait: steps say what they want done, tests say what
//! comes of it. Implementations keep no state of their own beyond what the kernel keeps for the process, and belong to
//! its one thread.
mod copy;
#[cfg(test)]
pub mod fake;
mod linux;
mod raw;

pub use linux::KernelCalls;
pub use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::{MountAttrFlags, MountFlags, UnmountFlags},
};

use super::spec::IdMapping;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

/// `f_type` of statfs(2) of cgroup v2.
pub const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// `f_type` of procfs.
pub const PROC_MAGIC: u64 = 0x9fa0;
/// `f_type` of the kernel's own root when it is a ramfs.
pub const RAMFS_MAGIC: u64 = 0x8584_58f6;
/// `f_type` of a tmpfs, which the kernel's own root may be as well.
pub const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What a file is (`S_IFMT`, permissions), and for devices which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Type and permissions as stat(2) has them.
    pub mode: u32,
    /// Number of the device that the file is, by [`rustix::fs::makedev`].
    pub device: u64,
}

impl Meta {
    /// Of directories.
    pub const DIRECTORY: u32 = 0o040_000;
    /// Of regular files.
    pub const FILE: u32 = 0o100_000;
    /// Of symbolic links.
    pub const LINK: u32 = 0o120_000;
    /// Of character devices.
    pub const CHARACTER: u32 = 0o020_000;
    /// Of block devices.
    pub const BLOCK: u32 = 0o060_000;
    /// Of named pipes.
    pub const PIPE: u32 = 0o010_000;

    /// The type alone: one of the constants.
    pub fn kind(self) -> u32 {
        self.mode & 0o170_000
    }
}

/// How a path is opened (openat2(2)).
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// `O_CLOEXEC` is added.
    pub flags: OFlags,
    /// Of a file that is made.
    pub mode: u32,
    /// What the path may lead through.
    pub resolve: ResolveFlags,
}

impl How {
    /// A place, not its content, to which no link of the image's leads out of the directory that it starts at.
    pub const PLACE: Self = Self {
        flags: OFlags::PATH,
        mode: 0,
        resolve: ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS),
    };

    /// With further flags.
    #[must_use]
    pub const fn with(self, flags: OFlags) -> Self {
        Self {
            flags: self.flags.union(flags),
            ..self
        }
    }

    /// No component of the path may be a symbolic link.
    #[must_use]
    pub const fn without_links(self) -> Self {
        Self {
            resolve: self.resolve.union(ResolveFlags::NO_SYMLINKS),
            ..self
        }
    }
}

/// How mounts spread (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of mount_namespaces(7)")]
pub enum Propagation {
    Shared,
    Slave,
    Private,
    Unbindable,
}

/// A change to mounts (mount_setattr(2)).
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// To be set.
    pub set: MountAttrFlags,
    /// To be taken away.
    pub clear: MountAttrFlags,
    /// To be changed.
    pub propagation: Option<Propagation>,
    /// Ids of the mount are those of this user namespace.
    pub ids_of: Option<BorrowedFd<'a>>,
}

impl Attributes<'_> {
    /// No change.
    pub const NONE: Self = Self {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        propagation: None,
        ids_of: None,
    };

    /// That nothing be written.
    pub const READ_ONLY: Self = Self {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..Self::NONE
    };

    /// Another propagation.
    pub const fn spreading(propagation: Propagation) -> Self {
        Self {
            propagation: Some(propagation),
            ..Self::NONE
        }
    }
}

/// The system calls. What is opened is closed by exec. An empty path means the descriptor's own place.
pub trait System {
    /// openat2(2).
    fn open(&self, dir: BorrowedFd<'_>, path: &Path, how: How) -> io::Result<OwnedFd>;
    /// fstat(2).
    fn meta(&self, fd: BorrowedFd<'_>) -> io::Result<Meta>;
    /// `f_type` of fstatfs(2).
    fn file_system(&self, fd: BorrowedFd<'_>) -> io::Result<u64>;
    /// The target of the symbolic link that the descriptor is.
    fn read_link(&self, fd: BorrowedFd<'_>) -> io::Result<std::path::PathBuf>;
    /// Everything that the file has, as text.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Writes all of it at once into an open file.
    fn write(&self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()>;
    /// mkdirat(2).
    fn make_dir(&self, dir: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()>;
    /// mknodat(2): type, mode and number by `meta`.
    fn make_node(&self, dir: BorrowedFd<'_>, name: &Path, meta: Meta) -> io::Result<()>;
    /// symlinkat(2).
    fn make_link(&self, target: &Path, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()>;
    /// unlinkat(2) of what is no directory.
    fn remove(&self, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()>;
    /// fchownat(2) of the name itself, be it a link.
    fn own(&self, dir: BorrowedFd<'_>, name: &Path, owner: (u32, u32)) -> io::Result<()>;
    /// umask(2); the former one.
    fn set_umask(&self, mask: u32) -> u32;
    /// Copies what is in one directory, of the image, to another one, which is empty; type, mode, owner and content.
    fn copy_tree(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()>;

    /// fsopen(2).
    fn open_fs(&self, kind: &str) -> io::Result<OwnedFd>;
    /// fsconfig(2): a flag, or a key with its value, of at most 255 bytes.
    fn configure_fs(&self, fs: BorrowedFd<'_>, key: &str, value: Option<&str>) -> io::Result<()>;
    /// fsconfig(2) and fsmount(2): a mount that is nowhere yet.
    fn mount_fs(&self, fs: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<OwnedFd>;
    /// What the kernel had to say about the calls above that failed.
    fn complaint(&self, fs: BorrowedFd<'_>) -> Option<String>;
    /// mount(2) on a directory, for options that fsconfig(2) cannot take.
    fn mount(&self, dir: BorrowedFd<'_>, kind: &str, source: &Path, options: (MountFlags, &str)) -> io::Result<()>;
    /// open_tree(2) with `OPEN_TREE_CLONE`: a copy of a mount, with those below it, that is nowhere yet.
    fn copy_mount(&self, dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd>;
    /// mount_setattr(2) on the mount whose root the path is.
    fn set_mount(&self, at: (BorrowedFd<'_>, &Path), change: &Attributes<'_>, recursive: bool) -> io::Result<()>;
    /// move_mount(2) from one descriptor to another.
    fn attach(&self, mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()>;
    /// umount2(2) with `MNT_DETACH`.
    fn detach(&self, path: &Path) -> io::Result<()>;
    /// A user namespace with these ids, that no process is in.
    fn user_namespace(&self, uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd>;

    /// fchdir(2).
    fn enter_dir(&self, dir: BorrowedFd<'_>) -> io::Result<()>;
    /// chdir(2).
    fn change_dir(&self, path: &Path) -> io::Result<()>;
    /// pivot_root(2) of the current directory onto itself: the former root lies on top of it.
    fn pivot_root(&self) -> io::Result<()>;
    /// chroot(2) to the current directory.
    fn chroot(&self) -> io::Result<()>;

    /// sethostname(2).
    fn set_host_name(&self, name: &str) -> io::Result<()>;
    /// setdomainname(2).
    fn set_domain_name(&self, name: &str) -> io::Result<()>;
}
