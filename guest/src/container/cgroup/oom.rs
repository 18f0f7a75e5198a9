//! Noticing that the kernel has killed processes of a cgroup because memory ran out.
use super::Cgroup;
use crate::container::{Error, Result};
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// How often memory ran out (cgroup-v2.rst § memory.events).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OomCounts {
    /// The limit of the cgroup, or of one below it, was hit and nothing could be freed.
    pub limit_hits: u64,
    /// Processes in it that were killed, whoever's memory ran out. More of them without more `limit_hits` means that it
    /// was the machine's.
    pub kills: u64,
}

impl Cgroup {
    /// The counts so far; nothing without the controller.
    pub fn oom_counts(&self) -> Option<OomCounts> {
        Some(OomCounts {
            limit_hits: self.read_key("memory.events", "oom")?,
            kills: self.read_key("memory.events", "oom_kill")?,
        })
    }

    /// Starts watching; what was before does not count.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let wish = || format!("watch the memory of {}", self.path().display());
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(Error::step(wish()))?;
        let file = self.path().join("memory.events");
        inotify::add_watch(&descriptor, &file, WatchFlags::MODIFY).map_err(Error::step(wish()))?;
        // The kernel does not tell a cgroup's own files that it is removed, only the folder above.
        if let Some(above) = self.path().parent() {
            inotify::add_watch(&descriptor, above, WatchFlags::DELETE).map_err(Error::step(wish()))?;
        }
        Ok(OomWatch {
            descriptor,
            path: self.path().to_path_buf(),
            seen: self.oom_counts().unwrap_or_default(),
        })
    }
}

/// A watch on a cgroup. Its descriptor becomes readable when [`Self::take`] may have something; often it has not.
#[derive(Debug)]
pub struct OomWatch {
    descriptor: OwnedFd,
    path: PathBuf,
    seen: OomCounts,
}

/// What has happened since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomNews {
    /// Nothing that matters.
    Quiet,
    /// So many more.
    Oom(OomCounts),
    /// The cgroup was removed; nothing will come any more.
    Gone,
}

impl OomWatch {
    /// What is new. Does not wait.
    pub fn take(&mut self) -> Result<OomNews> {
        let mut space = [MaybeUninit::uninit(); 512];
        let mut reader = inotify::Reader::new(&self.descriptor, &mut space);
        loop {
            match reader.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    let wish = format!("read what is new of the memory of {}", self.path.display());
                    return Err(Error::step(wish)(errno));
                }
            }
        }
        let Some(now) = Cgroup::at(&self.path).oom_counts() else {
            return Ok(OomNews::Gone);
        };
        let more = OomCounts {
            limit_hits: now.limit_hits.saturating_sub(self.seen.limit_hits),
            kills: now.kills.saturating_sub(self.seen.kills),
        };
        self.seen = now;
        Ok(match more {
            OomCounts {
                limit_hits: 0,
                kills: 0,
            } => OomNews::Quiet,
            more => OomNews::Oom(more),
        })
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
