//! System calls that do nothing but take note, and fail when they are told to.
//!
//! Descriptors are real, so that they can be owned, and named after what they were opened as: `/bundle/rootfs/dev`. A
//! copy of a mount has a `@` before its name.
use super::{Attributes, How, Meta, MountAttrFlags, MountFlags, System};
use crate::container::spec::IdMapping;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

/// What is there besides directories, which everything is that was not told otherwise.
#[derive(Debug, Default)]
pub struct Fake {
    calls: RefCell<Vec<String>>,
    names: RefCell<BTreeMap<RawFd, String>>,
    missing: RefCell<BTreeSet<String>>,
    files: RefCell<BTreeMap<String, Meta>>,
    links: BTreeMap<String, PathBuf>,
    file_systems: BTreeMap<String, u64>,
    texts: BTreeMap<String, String>,
    failing: Option<(usize, i32)>,
    failing_call: Option<(&'static str, i32)>,
    count: Cell<usize>,
}

impl Fake {
    /// Nothing is at this path.
    #[must_use]
    pub fn without(self, path: &str) -> Self {
        self.missing.borrow_mut().insert(path.to_owned());
        self
    }

    /// A file, device or anything else is at this path.
    #[must_use]
    pub fn with_file(self, path: &str, mode: u32, device: (u32, u32)) -> Self {
        let device = rustix::fs::makedev(device.0, device.1);
        self.files.borrow_mut().insert(path.to_owned(), Meta { mode, device });
        self
    }

    /// A symbolic link is at this path.
    #[must_use]
    pub fn with_link(mut self, path: &str, target: &str) -> Self {
        self.links.insert(path.to_owned(), target.into());
        self.with_file(path, Meta::LINK | 0o777, (0, 0))
    }

    /// A path is on this file system.
    #[must_use]
    pub fn with_file_system(mut self, path: &str, magic: u64) -> Self {
        self.file_systems.insert(path.to_owned(), magic);
        self
    }

    /// A file has this content.
    #[must_use]
    pub fn with_text(mut self, path: &str, text: &str) -> Self {
        self.texts.insert(path.to_owned(), text.to_owned());
        self
    }

    /// The call of this number, from 0, fails.
    #[must_use]
    pub fn failing(mut self, call: usize, errno: i32) -> Self {
        self.failing = Some((call, errno));
        self
    }

    /// The calls that begin like this fail.
    #[must_use]
    pub fn refusing(mut self, call: &'static str, errno: i32) -> Self {
        self.failing_call = Some((call, errno));
        self
    }

    /// What was called so far, in words.
    pub fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    /// How many calls could have failed.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    fn call(&self, call: impl Display) -> io::Result<()> {
        let call = call.to_string();
        let number = self.count.replace(self.count.get() + 1);
        let refused = self
            .failing_call
            .filter(|(start, _)| call.starts_with(start))
            .map(|(_, errno)| errno);
        self.calls.borrow_mut().push(call);
        match self
            .failing
            .filter(|(failing, _)| *failing == number)
            .map(|(_, errno)| errno)
            .or(refused)
        {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn name(&self, fd: BorrowedFd<'_>) -> String {
        self.names.borrow().get(&fd.as_raw_fd()).cloned().unwrap_or_default()
    }

    fn at(&self, dir: BorrowedFd<'_>, path: &Path) -> String {
        let dir = self.name(dir);
        match path.to_string_lossy() {
            path if dir.is_empty() => path.into_owned(),
            path if path.is_empty() => dir,
            path => format!("{dir}/{path}"),
        }
    }

    fn fd(&self, name: String) -> io::Result<OwnedFd> {
        let fd = OwnedFd::from(File::open("/dev/null")?);
        self.names.borrow_mut().insert(fd.as_raw_fd(), name);
        Ok(fd)
    }

    fn is_missing(&self, path: &str) -> bool {
        self.missing.borrow().iter().any(|missing| {
            path == missing
                || path
                    .strip_prefix(missing.as_str())
                    .is_some_and(|below| below.starts_with('/'))
        })
    }

    fn make(&self, name: String, meta: Option<Meta>) -> io::Result<()> {
        if self.files.borrow().contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.missing.borrow_mut().remove(&name);
        if let Some(meta) = meta {
            self.files.borrow_mut().insert(name, meta);
        }
        Ok(())
    }

    /// What `RESOLVE_NO_SYMLINKS` would stumble over.
    fn leads_by_link(&self, path: &str) -> bool {
        let below = |link: &String| {
            path.strip_prefix(link.as_str())
                .is_some_and(|rest| rest.starts_with('/'))
        };
        self.links.keys().any(|link| path == link || below(link))
    }
}

fn change(change: &Attributes<'_>) -> String {
    let mut words = Vec::new();
    for (sign, flags) in [('+', change.set), ('-', change.clear)] {
        for (name, _) in flags.iter_names().filter(|(name, _)| *name != "MOUNT_ATTR_RELATIME") {
            words.push(format!(
                "{sign}{}",
                name.trim_start_matches("MOUNT_ATTR_").to_lowercase()
            ));
        }
    }
    words.extend(
        change
            .propagation
            .map(|propagation| format!("{propagation:?}").to_lowercase()),
    );
    words.extend(change.ids_of.map(|_| "idmap".into()));
    words.join(" ")
}

fn all(recursive: bool) -> &'static str {
    if recursive { " and below" } else { "" }
}

impl System for Fake {
    fn open(&self, dir: BorrowedFd<'_>, path: &Path, how: How) -> io::Result<OwnedFd> {
        use rustix::fs::{OFlags, ResolveFlags};
        let name = self.at(dir, path);
        self.call(format_args!("open {name}"))?;
        if self.is_missing(&name) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let link_itself = self.links.contains_key(&name) && how.flags.contains(OFlags::NOFOLLOW);
        if how.resolve.contains(ResolveFlags::NO_SYMLINKS) && self.leads_by_link(&name) && !link_itself {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        self.fd(name)
    }

    fn meta(&self, fd: BorrowedFd<'_>) -> io::Result<Meta> {
        let name = self.name(fd);
        self.call(format_args!("stat {name}"))?;
        let mode = Meta::DIRECTORY | 0o755;
        let known = self.files.borrow().get(&name).copied();
        // A copy of a mount is what it is a copy of.
        let copied = name
            .strip_prefix('@')
            .and_then(|name| self.files.borrow().get(name).copied());
        Ok(known.or(copied).unwrap_or(Meta { mode, device: 0 }))
    }

    fn file_system(&self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let name = self.name(fd);
        self.call(format_args!("statfs {name}"))?;
        Ok(self.file_systems.get(&name).copied().unwrap_or_default())
    }

    fn read_link(&self, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
        let name = self.name(fd);
        self.call(format_args!("readlink {name}"))?;
        self.links
            .get(&name)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.call(format_args!("read {}", path.display()))?;
        let text = self.texts.get(&*path.to_string_lossy());
        text.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
        self.call(format_args!(
            "write {} {:?}",
            self.name(fd),
            String::from_utf8_lossy(bytes)
        ))
    }

    fn make_dir(&self, dir: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()> {
        let name = self.at(dir, name);
        self.call(format_args!("mkdir {name} {mode:o}"))?;
        self.make(name, None)
    }

    fn make_node(&self, dir: BorrowedFd<'_>, name: &Path, meta: Meta) -> io::Result<()> {
        use rustix::fs::{major, minor};
        let name = self.at(dir, name);
        let (major, minor) = (major(meta.device), minor(meta.device));
        self.call(format_args!("mknod {name} {:o} {major}:{minor}", meta.mode))?;
        self.make(name, Some(meta))
    }

    fn make_link(&self, target: &Path, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        let name = self.at(dir, name);
        self.call(format_args!("symlink {name} -> {}", target.display()))?;
        self.make(name, None)
    }

    fn remove(&self, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        let name = self.at(dir, name);
        self.call(format_args!("unlink {name}"))?;
        self.files.borrow_mut().remove(&name);
        Ok(())
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &Path, owner: (u32, u32)) -> io::Result<()> {
        self.call(format_args!("chown {} {}:{}", self.at(dir, name), owner.0, owner.1))
    }

    fn set_umask(&self, mask: u32) -> u32 {
        self.calls.borrow_mut().push(format!("umask {mask:o}"));
        0o22
    }

    fn copy_tree(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        self.call(format_args!("copy {} to {}", self.name(from), self.name(to)))
    }

    fn open_fs(&self, kind: &str) -> io::Result<OwnedFd> {
        self.call(format_args!("fsopen {kind}"))?;
        self.fd(kind.to_owned())
    }

    fn configure_fs(&self, fs: BorrowedFd<'_>, key: &str, value: Option<&str>) -> io::Result<()> {
        let value = value.map(|value| format!("={value}")).unwrap_or_default();
        self.call(format_args!("fsconfig {} {key}{value}", self.name(fs)))
    }

    fn mount_fs(&self, fs: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let set = Attributes {
            set: attributes,
            ..Attributes::NONE
        };
        self.call(format!("fsmount {} {}", self.name(fs), change(&set)).trim_end())?;
        self.fd(self.name(fs))
    }

    fn complaint(&self, _: BorrowedFd<'_>) -> Option<String> {
        Some("so it is".into())
    }

    fn mount(&self, dir: BorrowedFd<'_>, kind: &str, source: &Path, options: (MountFlags, &str)) -> io::Result<()> {
        let (flags, data) = options;
        self.call(format_args!(
            "mount {kind} {} on {} {flags:?} {data}",
            source.display(),
            self.name(dir)
        ))
    }

    fn copy_mount(&self, dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
        let name = self.at(dir, path);
        self.call(format_args!("open_tree {name}{}", all(recursive)))?;
        if self.is_missing(&name) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        self.fd(format!("@{}", name.trim_start_matches('@')))
    }

    fn set_mount(&self, at: (BorrowedFd<'_>, &Path), changed: &Attributes<'_>, recursive: bool) -> io::Result<()> {
        self.call(format_args!(
            "setattr {}{}: {}",
            self.at(at.0, at.1),
            all(recursive),
            change(changed)
        ))
    }

    fn attach(&self, mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
        self.call(format_args!("attach {} to {}", self.name(mount), self.name(place)))
    }

    fn detach(&self, path: &Path) -> io::Result<()> {
        self.call(format_args!("detach {}", path.display()))
    }

    fn user_namespace(&self, uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd> {
        let text = |mappings: &[IdMapping]| {
            let one = |one: &IdMapping| format!("{}-{}-{}", one.container_id, one.host_id, one.size);
            mappings.iter().map(one).collect::<Vec<_>>().join(",")
        };
        self.call(format_args!("userns {} {}", text(uids), text(gids)))?;
        self.fd("userns".into())
    }

    fn enter_dir(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        self.call(format_args!("fchdir {}", self.name(dir)))
    }

    fn change_dir(&self, path: &Path) -> io::Result<()> {
        self.call(format_args!("chdir {}", path.display()))
    }

    fn pivot_root(&self) -> io::Result<()> {
        self.call("pivot_root")
    }

    fn chroot(&self) -> io::Result<()> {
        self.call("chroot")
    }

    fn set_host_name(&self, name: &str) -> io::Result<()> {
        self.call(format_args!("sethostname {name}"))
    }

    fn set_domain_name(&self, name: &str) -> io::Result<()> {
        self.call(format_args!("setdomainname {name}"))
    }
}
