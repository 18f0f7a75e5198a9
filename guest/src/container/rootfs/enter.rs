//! Leaves the former root for the container's.
use super::{Rootfs, is};
use crate::container::{
    Error, Result,
    system::{Attributes, CWD, How, OFlags, Propagation, RAMFS_MAGIC, ResolveFlags, System, TMPFS_MAGIC},
};
use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

pub(super) fn enter(sys: &dyn System, root: BorrowedFd<'_>, plan: &Rootfs) -> Result<()> {
    sys.enter_dir(root)
        .map_err(Error::step("change to the container's root"))?;
    let shared = matches!(plan.propagation, Some((Propagation::Shared, _)));
    if plan.no_pivot || !pivot(sys, shared)? {
        if shared {
            part(sys, CWD, Path::new("/"))?;
        }
        shadow(sys, root, &plan.path)?;
    }
    sys.change_dir(Path::new("/"))
        .map_err(Error::step("change to the new root"))?;
    match plan.propagation {
        Some((last @ (Propagation::Shared | Propagation::Unbindable), recursive)) => sys
            .set_mount((CWD, Path::new("/")), &Attributes::spreading(last), recursive)
            .map_err(Error::step(format!("make the new root {last:?}"))),
        // So it is since it was copied from a mount that is.
        _ => Ok(()),
    }
}

/// pivot_root(2); says whether it could be done: an initramfs can be no mount of anything's.
fn pivot(sys: &dyn System, shared: bool) -> Result<bool> {
    let former = if shared { Some(former_root(sys)?) } else { None };
    match sys.pivot_root() {
        Ok(()) => {}
        Err(problem) if is(&problem, libc::EINVAL) && is_initramfs(sys)? => return Ok(false),
        Err(problem) => return Err(Error::step("pivot to the container's root")(problem)),
    }
    if let Some(former) = former {
        part(sys, former.as_fd(), Path::new(""))?;
    }
    sys.detach(Path::new("."))
        .map_err(Error::step("unmount the former root"))?;
    Ok(true)
}

/// Otherwise what is unmounted here would be unmounted on the host too.
fn part(sys: &dyn System, dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
    sys.set_mount((dir, path), &Attributes::spreading(Propagation::Slave), true)
        .map_err(Error::step("part the former root from the host's mounts"))
}

fn former_root(sys: &dyn System) -> Result<OwnedFd> {
    let how = How {
        flags: OFlags::PATH | OFlags::DIRECTORY,
        mode: 0,
        resolve: ResolveFlags::empty(),
    };
    sys.open(CWD, Path::new("/"), how)
        .map_err(Error::step("open the former root"))
}

fn is_initramfs(sys: &dyn System) -> Result<bool> {
    let root = former_root(sys)?;
    let kind = sys
        .file_system(root.as_fd())
        .map_err(Error::step("look at the former root"))?;
    Ok(matches!(kind, RAMFS_MAGIC | TMPFS_MAGIC))
}

/// Lays the container's root over the former one, which then no path leads to. Other mounts go first, above all procfs
/// and sysfs: the kernel lets a user namespace mount new ones only where an unmasked one is mounted already.
fn shadow(sys: &dyn System, root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let listed = sys
        .read(Path::new("/proc/thread-self/mountinfo"))
        .map_err(Error::step("read /proc/thread-self/mountinfo"))?;
    for mount in others(&listed, path) {
        match sys.detach(&mount) {
            // It is locked to the mounts that the user namespace was given, or gone with another.
            Err(problem) if !is(&problem, libc::EINVAL) && problem.kind() != io::ErrorKind::NotFound => {
                return Err(Error::step(format!("unmount the host's {}", mount.display()))(problem));
            }
            _ => {}
        }
    }
    let former = former_root(sys)?;
    sys.attach(root, former.as_fd())
        .map_err(Error::step("move the container's root over the former one"))?;
    sys.chroot().map_err(Error::step("change the root to the container's"))
}

/// Mount points of `mountinfo` (proc(5)) that neither lead to the path nor are within it, and are not within
/// one another: what is mounted on a mount goes with it.
fn others(mountinfo: &str, path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some(point) = line.split(' ').nth(4) else { continue };
        let point = unescape(point);
        if path.starts_with(&point) || point.starts_with(path) || found.iter().any(|other| point.starts_with(other)) {
            continue;
        }
        found.retain(|other| !other.starts_with(&point));
        found.push(point);
    }
    found
}

/// Blanks and backslashes are written as `\040`.
fn unescape(point: &str) -> PathBuf {
    let mut parts = point.split('\\');
    let mut bytes: Vec<u8> = parts.next().unwrap_or_default().into();
    for part in parts {
        let (code, rest) = part.split_at_checked(3).unwrap_or(("", part));
        bytes.extend(u8::from_str_radix(code, 8).ok());
        bytes.extend(rest.as_bytes());
    }
    OsString::from_vec(bytes).into()
}
