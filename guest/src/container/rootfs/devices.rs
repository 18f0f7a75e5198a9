//! Devices and links in `/dev` (config-linux.md § Default Devices), and the console.
use super::{
    is,
    mounts::Planned,
    path::{self, Missing},
};
use crate::container::{
    Error, Result,
    spec::Device,
    system::{CWD, How, Meta, OFlags, System},
};
use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Every container has them.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
/// The device that swallows everything.
pub(super) const NULL: (u32, u32) = (1, 3);

/// What is made in `/dev` and elsewhere.
#[derive(Debug)]
pub(super) struct Devices {
    nodes: Vec<Node>,
    /// A user namespace has no power to make devices: the host's are mounted there.
    bound: bool,
    /// `/dev` is the host's, and left as it is.
    skipped: bool,
}

#[derive(Debug)]
struct Node {
    path: PathBuf,
    meta: Meta,
    owner: (u32, u32),
}

impl Node {
    fn new(device: &Device, index: usize) -> Result<Self> {
        let wrong = |field: &str, problem: String| Error::spec(format!("linux.devices[{index}].{field}"), problem);
        let kind = match device.kind.as_str() {
            "c" | "u" => Meta::CHARACTER,
            "b" => Meta::BLOCK,
            "p" => Meta::PIPE,
            other => return Err(wrong("type", format!("{other:?} is none of c, u, b, p"))),
        };
        let number = |field, value: i64| {
            u32::try_from(value).map_err(|_| wrong(field, format!("{value} is not from 0 to {}", u32::MAX)))
        };
        let device_number = match kind {
            Meta::PIPE => 0,
            _ => rustix::fs::makedev(number("major", device.major)?, number("minor", device.minor)?),
        };
        let path = path::clean(&device.path);
        if path.file_name().is_none() {
            return Err(wrong("path", format!("{} names no file", device.path.display())));
        }
        Ok(Self {
            path,
            meta: Meta {
                mode: kind | device.file_mode.unwrap_or(0o666) & 0o7777,
                device: device_number,
            },
            owner: (device.uid.unwrap_or(0), device.gid.unwrap_or(0)),
        })
    }
}

impl Devices {
    pub(super) fn new(listed: &[Device], mounts: &[Planned], bound: bool) -> Result<Self> {
        let listed = listed
            .iter()
            .enumerate()
            .map(|(index, device)| Node::new(device, index));
        let listed = listed.collect::<Result<Vec<_>>>()?;
        let default = DEFAULT.into_iter().map(|(path, major, minor)| Node {
            path: path.into(),
            meta: Meta {
                mode: Meta::CHARACTER | 0o666,
                device: rustix::fs::makedev(major, minor),
            },
            owner: (0, 0),
        });
        let wished = |node: &Node| {
            let mounted = mounts.iter().any(|mount| mount.destination == node.path);
            !mounted && listed.iter().all(|other| other.path != node.path)
        };
        let mut nodes: Vec<_> = default.filter(wished).collect();
        nodes.extend(listed);
        let dev = |mount: &Planned| mount.destination == Path::new("dev") && mount.is_bind();
        Ok(Self {
            nodes,
            bound,
            skipped: mounts.iter().any(dev),
        })
    }

    pub(super) fn make(&self, sys: &dyn System, root: BorrowedFd<'_>) -> Result<()> {
        if self.skipped {
            return Ok(());
        }
        let dev = directory(sys, root, Path::new("dev"))?;
        for node in &self.nodes {
            let name = Path::new(node.path.file_name().unwrap_or_default());
            match node.path.parent().unwrap_or(Path::new("")) {
                parent if parent == Path::new("dev") => self.node(sys, dev.as_fd(), (name, node))?,
                parent if parent.as_os_str().is_empty() => self.node(sys, root, (name, node))?,
                parent => self.node(sys, directory(sys, root, parent)?.as_fd(), (name, node))?,
            }
        }
        LINKS
            .iter()
            .try_for_each(|(name, target)| link(sys, dev.as_fd(), Path::new(name), Path::new(target)))
    }

    fn node(&self, sys: &dyn System, dir: BorrowedFd<'_>, (name, node): (&Path, &Node)) -> Result<()> {
        let failed = |step: &str| Error::step(format!("{step} the device /{}", node.path.display()));
        if self.bound && node.meta.kind() != Meta::PIPE {
            return bind(sys, dir, (name, node));
        }
        match sys.make_node(dir, name, node.meta) {
            Ok(()) if node.owner == (0, 0) => Ok(()),
            Ok(()) => sys.own(dir, name, node.owner).map_err(failed("set the owner of")),
            Err(problem) if is(&problem, libc::EPERM) && node.meta.kind() != Meta::PIPE => bind(sys, dir, (name, node)),
            Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {
                let there = existing(sys, dir, name).map_err(failed("open"))?;
                let found = sys.meta(there.as_fd()).map_err(failed("look at"))?;
                if found.kind() == node.meta.kind() && found.device == node.meta.device {
                    return Ok(());
                }
                let problem = "the image has something else at this path; remove it, or mount a tmpfs on /dev";
                Err(Error::spec(format!("device /{}", node.path.display()), problem))
            }
            Err(problem) => Err(failed("make")(problem)),
        }
    }
}

/// Opens a folder, which is made if it is missing.
fn directory(sys: &dyn System, root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let found = path::find(sys, root, path).map_err(Error::step(format!("open /{}", path.display())))?;
    match found {
        Some(place) => Ok(place.fd),
        None => path::make(sys, root, path, Missing::Directory).map(|place| place.fd),
    }
}

/// What the name itself is: links are not followed.
fn existing(sys: &dyn System, dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    sys.open(dir, name, How::PLACE.without_links())
}

/// A file to mount something on; what is there already may be one, but no link.
fn mount_point(sys: &dyn System, dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let mode = Meta::FILE | 0o666;
    match sys.make_node(dir, name, Meta { mode, device: 0 }) {
        Err(problem) if problem.kind() != io::ErrorKind::AlreadyExists => Err(problem),
        _ => existing(sys, dir, name),
    }
}

/// Mounts the host's device of the same path there.
fn bind(sys: &dyn System, dir: BorrowedFd<'_>, (name, node): (&Path, &Node)) -> Result<()> {
    let failed = |step: &str| Error::step(format!("{step} the device /{}", node.path.display()));
    let source = sys
        .copy_mount(CWD, &Path::new("/").join(&node.path), false)
        .map_err(failed("open the host's own of"))?;
    let found = sys.meta(source.as_fd()).map_err(failed("look at the host's own of"))?;
    if found.kind() != node.meta.kind() || found.device != node.meta.device {
        let problem = "the host has another device there, and a user namespace has no power to make one";
        return Err(Error::spec(format!("device /{}", node.path.display()), problem));
    }
    let place = mount_point(sys, dir, name).map_err(failed("make the mount point of"))?;
    sys.attach(source.as_fd(), place.as_fd()).map_err(failed("mount"))
}

fn link(sys: &dyn System, dev: BorrowedFd<'_>, name: &Path, target: &Path) -> Result<()> {
    let failed = || Error::step(format!("make the link /dev/{}", name.display()));
    match sys.make_link(target, dev, name) {
        Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists => {}
        done => return done.map_err(failed()),
    }
    let there = || sys.open(dev, name, How::PLACE.with(OFlags::NOFOLLOW));
    if name != Path::new("ptmx") || sys.meta(there().map_err(failed())?.as_fd()).map_err(failed())?.kind() == Meta::LINK
    {
        return Ok(());
    }
    // A node of the image's would give terminals of the host.
    sys.remove(dev, name)
        .map_err(Error::step("remove the image's /dev/ptmx"))?;
    sys.make_link(target, dev, name).map_err(failed())
}

/// Mounts the terminal on `/dev/console`.
pub(super) fn console(sys: &dyn System, root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> Result<()> {
    let dev = directory(sys, root, Path::new("dev"))?;
    let place = mount_point(sys, dev.as_fd(), Path::new("console"));
    let place = place.map_err(Error::step("make the mount point /dev/console"))?;
    let source = sys
        .copy_mount(terminal, Path::new(""), false)
        .map_err(Error::step("copy the terminal's mount"))?;
    sys.attach(source.as_fd(), place.as_fd())
        .map_err(Error::step("mount the terminal on /dev/console"))
}

/// The container's `/dev/null`, if it is one.
pub(super) fn null(sys: &dyn System, root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let how = How::PLACE.without_links().with(OFlags::NOFOLLOW);
    let null = sys
        .open(root, Path::new("dev/null"), how)
        .map_err(Error::step("open /dev/null"))?;
    let found = sys.meta(null.as_fd()).map_err(Error::step("look at /dev/null"))?;
    if found.kind() != Meta::CHARACTER || found.device != rustix::fs::makedev(NULL.0, NULL.1) {
        let problem = "/dev/null of the container is something else, so that it cannot hide what is to be hidden";
        return Err(Error::spec("linux.maskedPaths", problem));
    }
    Ok(null)
}
