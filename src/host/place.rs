//! Where the emulated host keeps things: its state, private to the user, and its cache. Creates folders, starts nothing.
use super::{HostArch, HostError};
use std::{
    env,
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The state folder of one host.
///
/// `keeper.lock` is locked as long as the host's keeper lives, so whoever can lock it knows that everything else in
/// the folder is left over. `start.lock` is locked by whoever starts a keeper. Neither file is ever removed, since a
/// lock on a removed file guards nothing.
#[derive(Debug, Clone)]
pub(crate) struct State(PathBuf);

impl State {
    /// Opens the folder below `$XDG_RUNTIME_DIR`, or below `/tmp` without one; creates it with mode 0700.
    pub(crate) fn open(arch: HostArch) -> Result<Self, HostError> {
        Self::below(&base(), arch, user())
    }

    fn below(base: &Path, arch: HostArch, user: u32) -> Result<Self, HostError> {
        private(base, user)?;
        let dir = base.join(format!("host-{}", arch.name()));
        private(&dir, user)?;
        Ok(Self(dir))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
    pub(crate) fn initrd(&self) -> PathBuf {
        self.0.join("initrd")
    }
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("keeper.log")
    }
    /// Why the last host ended.
    pub(crate) fn end(&self) -> PathBuf {
        self.0.join("end")
    }

    /// Takes the keeper's lock, or `None` while a keeper lives.
    pub(crate) fn lock_keeper(&self) -> Result<Option<File>, HostError> {
        lock(&self.0.join("keeper.lock"))
    }

    /// Takes the starter's lock, waiting up to `limit` for another starter.
    pub(crate) fn lock_start(&self, limit: Duration) -> Result<File, HostError> {
        let patience = Instant::now() + limit;
        loop {
            if let Some(lock) = lock(&self.0.join("start.lock"))? {
                return Ok(lock);
            }
            if Instant::now() > patience {
                return Err(HostError::Busy {
                    seconds: limit.as_secs(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes what a dead keeper left. The caller holds the keeper's lock.
    pub(crate) fn clean(&self) {
        for path in [self.socket(), self.initrd()] {
            let _ = fs::remove_file(path);
        }
    }

    /// The last lines of the host's console.
    pub(crate) fn console_tail(&self) -> String {
        tail(&self.console())
    }
}

/// The last lines of a console's log, each on a line of its own.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
    tail.iter().flat_map(|line| ["\n  | ", line]).collect()
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn base() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_dir() => PathBuf::from(dir).join("coracle"),
        _ => PathBuf::from(format!("/tmp/coracle-{}", user())),
    }
}

/// A private folder for one job of this process, removed with its content when dropped. A process that is killed
/// leaves its folder to the next one, which removes it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self, HostError> {
        Self::below(&base(), user())
    }

    fn below(base: &Path, user: u32) -> Result<Self, HostError> {
        private(base, user)?;
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix("once-")?.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let thread = std::thread::current().id();
        let path = base.join(format!("once-{}-{thread:?}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        private(&path, user)?;
        Ok(Self(path))
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn private(dir: &Path, user: u32) -> Result<(), HostError> {
    let fail = |source| HostError::File {
        wish: "create the folder",
        path: dir.to_path_buf(),
        source,
    };
    if let Err(error) = DirBuilder::new().mode(0o700).create(dir)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(fail(error));
    }
    let meta = fs::symlink_metadata(dir).map_err(fail)?;
    if !meta.is_dir() || meta.uid() != user || meta.mode() & 0o022 != 0 {
        return Err(HostError::Unsafe(dir.to_path_buf()));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<Option<File>, HostError> {
    let fail = |source| HostError::File {
        wish: "lock",
        path: path.to_path_buf(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(fail(error)),
    }
}

/// `$XDG_CACHE_HOME/coracle`, or `~/.cache/coracle`.
pub(crate) fn cache() -> Result<PathBuf, HostError> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base.ok_or(HostError::NoCache)?.join("coracle"))
}

/// Finds a program in `$PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests;
