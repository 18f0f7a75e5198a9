//! Paths beneath the container's root. The image, and processes of other containers that share a folder with this one,
//! are hostile: the kernel keeps every look-up within the root, and what was found is used by its descriptor, never by
//! its name again.
use super::is;
use crate::container::{
    Error, Result,
    system::{How, Meta, OFlags, System},
};
use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

/// As many as the kernel follows.
const LINKS: usize = 40;

/// Where something is mounted.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    /// A symbolic link of the image's led there, so it need not be where its path says.
    pub(super) by_link: bool,
}

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
}

/// The path as it is without symbolic links, relative to the root; "" is the root itself.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    cleaned
}

/// Opens the place of a cleaned path; none if there is nothing.
pub(super) fn find(sys: &dyn System, root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<Place>> {
    let found = match sys.open(root, path, How::PLACE.without_links()) {
        Err(problem) if is(&problem, libc::ELOOP) => {
            sys.open(root, path, How::PLACE).map(|fd| Place { fd, by_link: true })
        }
        opened => opened.map(|fd| Place { fd, by_link: false }),
    };
    present(found)
}

fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(problem) if is_missing(&problem) => Ok(None),
        found => found.map(Some),
    }
}

/// There is no such thing, or what ought to lead there is a file.
fn is_missing(problem: &io::Error) -> bool {
    matches!(problem.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// Makes what is missing on the way to a cleaned path that nothing was found by, and at its end. Links are followed as a process with that root
/// would follow them, so one that points to nothing gets its target.
pub(super) fn make(sys: &dyn System, root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<Place> {
    let failed = |problem: io::Error| Error::step(format!("create the mount point /{}", path.display()))(problem);
    let mut walk = Walk::new(sys, root, path);
    // Most often the last one alone is missing.
    if let Some((parent, name)) = path.parent().zip(path.file_name())
        && !parent.as_os_str().is_empty()
    {
        let how = How::PLACE.without_links().with(OFlags::DIRECTORY);
        match sys.open(root, parent, how) {
            Ok(opened) => {
                walk.at = Some(opened);
                parent.clone_into(&mut walk.resolved);
                walk.pending = [name.to_owned()].into();
            }
            Err(problem) if is_missing(&problem) || is(&problem, libc::ELOOP) => {}
            Err(problem) => return Err(failed(problem)),
        }
    }
    // Whoever makes something has looked for it.
    walk.end_is_missing |= walk.pending.len() == 1;
    walk.run(missing).map_err(failed)
}

struct Walk<'a> {
    sys: &'a dyn System,
    root: BorrowedFd<'a>,
    /// None is the root.
    at: Option<OwnedFd>,
    /// What `at` is, without links.
    resolved: PathBuf,
    pending: VecDeque<OsString>,
    /// What is pending is one name, and nothing was found by it.
    end_is_missing: bool,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(sys: &'a dyn System, root: BorrowedFd<'a>, path: &Path) -> Self {
        Self {
            sys,
            root,
            at: None,
            resolved: PathBuf::new(),
            pending: path.iter().map(OsString::from).collect(),
            end_is_missing: false,
            links: 0,
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.at.as_ref().map_or(self.root, |fd| fd.as_fd())
    }

    fn run(mut self, missing: Missing) -> io::Result<Place> {
        while let Some(name) = self.pending.pop_front() {
            if name == ".." {
                self.resolved.pop();
                self.at = None;
                if !self.resolved.as_os_str().is_empty() {
                    let how = How::PLACE.without_links().with(OFlags::DIRECTORY);
                    self.at = Some(self.sys.open(self.root, &self.resolved, how)?);
                }
                continue;
            }
            self.step(name, missing)?;
        }
        let by_link = self.links > 0;
        match self.at {
            Some(fd) => Ok(Place { fd, by_link }),
            None => Err(io::Error::other("it is the root itself")),
        }
    }

    fn step(&mut self, name: OsString, missing: Missing) -> io::Result<()> {
        let path = Path::new(&name);
        let place = How::PLACE.with(OFlags::NOFOLLOW);
        let open = |walk: &Self| walk.sys.open(walk.here(), path, place);
        let found = if std::mem::take(&mut self.end_is_missing) {
            None
        } else {
            present(open(self))?
        };
        let opened = match found {
            Some(found) => found,
            None => match self.create(path, missing) {
                // Somebody was faster, with whatever it is; or it is a link to what is missing.
                Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => open(self)?,
                Err(problem) => return Err(problem),
                Ok(Missing::File) => open(self)?,
                Ok(Missing::Directory) => {
                    self.at = Some(self.sys.open(self.here(), path, place.with(OFlags::DIRECTORY))?);
                    self.resolved.push(name);
                    return Ok(());
                }
            },
        };
        if self.sys.meta(opened.as_fd())?.kind() != Meta::LINK {
            self.at = Some(opened);
            self.resolved.push(name);
            return Ok(());
        }
        self.links += 1;
        if self.links > LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        self.follow(&self.sys.read_link(opened.as_fd())?);
        Ok(())
    }

    /// Says what was made.
    fn create(&self, path: &Path, missing: Missing) -> io::Result<Missing> {
        if self.pending.is_empty() && missing == Missing::File {
            let mode = Meta::FILE | 0o644;
            self.sys.make_node(self.here(), path, Meta { mode, device: 0 })?;
            return Ok(Missing::File);
        }
        self.sys.make_dir(self.here(), path, 0o755)?;
        Ok(Missing::Directory)
    }

    fn follow(&mut self, target: &Path) {
        if target.is_absolute() {
            self.at = None;
            self.resolved = PathBuf::new();
        }
        for component in target.components().rev() {
            match component {
                Component::Normal(name) => self.pending.push_front(name.to_owned()),
                Component::ParentDir => self.pending.push_front("..".into()),
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            }
        }
    }
}
