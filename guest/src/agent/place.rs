//! Where paths of requests lead. With a root, no path and no symbolic link leads out of it (`openat2`,
//! `RESOLVE_IN_ROOT`), whoever makes links there meanwhile.
use super::outbox::{invalid, refused};
use coracle_protocol::sandbox::Failed;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat2},
    io::{Errno, Result},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is only looked at, or passed through.
const PASS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// A folder to pass through.
const FOLDER: OFlags = PASS.union(OFlags::DIRECTORY);

/// Where paths begin.
pub(super) struct Place {
    root: Option<OwnedFd>,
    resolve: ResolveFlags,
}

impl Place {
    /// The whole file system, or what is beneath a folder.
    pub(super) fn new(root: Option<&str>) -> std::result::Result<Self, Failed> {
        let open = |path: &str| {
            absolute(path)?;
            rustix::fs::open(path, FOLDER, Mode::empty()).map_err(refused(format!("open the root {path}")))
        };
        Ok(Self {
            root: root.map(open).transpose()?,
            resolve: if root.is_some() {
                ResolveFlags::IN_ROOT
            } else {
                ResolveFlags::empty()
            },
        })
    }

    /// What is beneath this folder. Links that would lead out of it are refused, not bent.
    pub(super) fn beneath(folder: OwnedFd) -> Self {
        Self {
            root: Some(folder),
            resolve: ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS),
        }
    }

    fn start(&self) -> BorrowedFd<'_> {
        self.root.as_ref().map_or(CWD, AsFd::as_fd)
    }

    pub(super) fn open(&self, path: &str, flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let mode = if flags.contains(OFlags::CREATE) {
            Mode::from_raw_mode(mode & 0o7777)
        } else {
            Mode::empty()
        };
        let mut tries = 0;
        loop {
            match openat2(self.start(), path, flags | OFlags::CLOEXEC, mode, self.resolve) {
                // Somebody renamed something on the way.
                Err(Errno::AGAIN) if tries < 16 => tries += 1,
                opened => return opened,
            }
        }
    }

    /// What a path names itself, to look at.
    pub(super) fn look(&self, path: &str, follow: bool) -> Result<OwnedFd> {
        let flags = if follow { PASS } else { PASS | OFlags::NOFOLLOW };
        self.open(path, flags, 0)
    }

    /// The folder that a path ends in, and the name there.
    pub(super) fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        let path = path.trim_end_matches('/');
        let (folder, name) = match path.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some(split) => split,
            None => (".", path),
        };
        // The root of all has neither.
        if matches!(name, "" | "." | "..") {
            return Err(Errno::INVAL);
        }
        Ok((self.open(folder, FOLDER, 0)?, name))
    }

    /// Makes a folder and those above it; those that are there stay as they are.
    pub(super) fn make_folders(&self, path: &str, mode: u32) -> Result<()> {
        let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        ends.push(path.len());
        for end in ends {
            let so_far = path.get(..end).unwrap_or_default();
            if matches!(so_far.rsplit('/').next(), None | Some("" | "." | "..")) {
                continue;
            }
            let (folder, name) = self.parent(so_far)?;
            match make_folder(folder.as_fd(), name, mode) {
                Ok(()) => {}
                Err(Errno::EXIST) => drop(self.open(so_far, FOLDER, 0)?),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes a folder with these permissions, whatever the umask.
pub(super) fn make_folder(parent: BorrowedFd<'_>, name: &str, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    mkdirat(parent, name, mode)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fchmod(rustix::fs::openat(parent, name, flags, Mode::empty())?, mode)
}

/// Holds a path to begin at the root: an agent has no place of its own.
pub(super) fn absolute(path: &str) -> std::result::Result<(), Failed> {
    if path.starts_with('/') {
        Ok(())
    } else {
        Err(invalid(format!("{path:?} is no absolute path: begin it with /")))
    }
}
