//! Hides paths, and keeps others from being written (config-linux.md § Masked Paths, § Readonly Paths). Both only take
//! away what the kernel's own file systems show to everybody; a path that is not there is skipped.
use super::{devices, path};
use crate::container::{
    Error, Result,
    system::{Attributes, Meta, MountAttrFlags, System},
};
use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Makes each, and everything that is mounted below it, read-only.
pub(super) fn read_only(sys: &dyn System, root: BorrowedFd<'_>, paths: &[PathBuf]) -> Result<()> {
    for shown in paths {
        let failed = || Error::step(format!("make /{} read-only", shown.display()));
        let Some(place) = path::find(sys, root, shown).map_err(failed())? else {
            continue;
        };
        let copy = sys
            .copy_mount(place.fd.as_fd(), Path::new(""), true)
            .map_err(failed())?;
        sys.set_mount((copy.as_fd(), Path::new("")), &Attributes::READ_ONLY, true)
            .map_err(failed())?;
        sys.attach(copy.as_fd(), place.fd.as_fd()).map_err(failed())?;
    }
    Ok(())
}

/// Hides each: a file behind `/dev/null`, a directory behind an empty one.
pub(super) fn mask(sys: &dyn System, root: BorrowedFd<'_>, paths: &[PathBuf]) -> Result<()> {
    let (mut null, mut empty): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
    for shown in paths {
        let failed = || Error::step(format!("mask /{}", shown.display()));
        let Some(place) = path::find(sys, root, shown).map_err(failed())? else {
            continue;
        };
        let directory = sys.meta(place.fd.as_fd()).map_err(failed())?.kind() == Meta::DIRECTORY;
        let cover = match (directory, &mut null, &mut empty) {
            (true, _, None) => {
                let fresh = empty_directory(sys).map_err(failed())?;
                sys.attach(fresh.as_fd(), place.fd.as_fd()).map_err(failed())?;
                empty = Some(fresh);
                continue;
            }
            (true, _, Some(empty)) => &*empty,
            (false, null @ None, _) => null.insert(devices::null(sys, root)?),
            (false, Some(null), _) => &*null,
        };
        let copy = sys.copy_mount(cover.as_fd(), Path::new(""), false).map_err(failed())?;
        sys.attach(copy.as_fd(), place.fd.as_fd()).map_err(failed())?;
    }
    Ok(())
}

/// A file system that nothing is in and nothing can be put in.
fn empty_directory(sys: &dyn System) -> std::io::Result<OwnedFd> {
    let fs = sys.open_fs("tmpfs")?;
    sys.configure_fs(fs.as_fd(), "source", Some("tmpfs"))?;
    sys.configure_fs(fs.as_fd(), "nr_inodes", Some("1"))?;
    sys.mount_fs(fs.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY)
}
