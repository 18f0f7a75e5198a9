//! The kernel's own system calls.
use super::{Attributes, How, Meta, System, copy, raw};
use crate::container::spec::IdMapping;
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree,
        unmount,
    },
    process,
};
use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
};

/// The kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelCalls;

/// openat2(2) with `RESOLVE_IN_ROOT` gives up with EAGAIN when something was renamed meanwhile; it is worth another try,
/// but not for ever, since an image's process may rename on purpose.
const TRIES: usize = 64;

impl System for KernelCalls {
    fn open(&self, dir: BorrowedFd<'_>, path: &Path, how: How) -> io::Result<OwnedFd> {
        let flags = how.flags | OFlags::CLOEXEC;
        let open = || fs::openat2(dir, path, flags, Mode::from_raw_mode(how.mode), how.resolve);
        let mut opened = open();
        for _ in 0..TRIES {
            match opened {
                Err(Errno::AGAIN | Errno::INTR) => opened = open(),
                _ => break,
            }
        }
        Ok(opened?)
    }

    fn meta(&self, fd: BorrowedFd<'_>) -> io::Result<Meta> {
        let found = fs::fstat(fd)?;
        Ok(Meta {
            mode: found.st_mode,
            device: found.st_rdev,
        })
    }

    #[allow(clippy::cast_sign_loss, reason = "a magic number: its bits count")]
    fn file_system(&self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        Ok(fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff)
    }

    fn read_link(&self, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
        Ok(OsString::from_vec(fs::readlinkat(fd, "", Vec::new())?.into_bytes()).into())
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn write(&self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
        if rustix::io::write(fd, bytes)? < bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    fn make_dir(&self, dir: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()> {
        Ok(fs::mkdirat(dir, name, Mode::from_raw_mode(mode))?)
    }

    fn make_node(&self, dir: BorrowedFd<'_>, name: &Path, meta: Meta) -> io::Result<()> {
        let kind = FileType::from_raw_mode(meta.mode);
        Ok(fs::mknodat(
            dir,
            name,
            kind,
            Mode::from_raw_mode(meta.mode & 0o7777),
            meta.device,
        )?)
    }

    fn make_link(&self, target: &Path, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        Ok(fs::symlinkat(target, dir, name)?)
    }

    fn remove(&self, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        Ok(fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &Path, owner: (u32, u32)) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        Ok(fs::chownat(
            dir,
            name,
            Some(user),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn set_umask(&self, mask: u32) -> u32 {
        process::umask(Mode::from_raw_mode(mask)).as_raw_mode()
    }

    fn copy_tree(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        copy::tree(from, to)
    }

    fn open_fs(&self, kind: &str) -> io::Result<OwnedFd> {
        Ok(fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?)
    }

    fn configure_fs(&self, fs: BorrowedFd<'_>, key: &str, value: Option<&str>) -> io::Result<()> {
        match value {
            Some(value) => fsconfig_set_string(fs, key, value)?,
            None => fsconfig_set_flag(fs, key)?,
        }
        Ok(())
    }

    fn mount_fs(&self, fs: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        fsconfig_create(fs)?;
        Ok(fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    fn complaint(&self, fs: BorrowedFd<'_>) -> Option<String> {
        let mut line = [0; 512];
        let length = rustix::io::read(fs, &mut line).ok()?;
        let text = String::from_utf8_lossy(line.get(..length)?);
        // "e " marks an error.
        Some(text.strip_prefix("e ").unwrap_or(&text).trim_end().to_owned())
    }

    fn mount(&self, dir: BorrowedFd<'_>, kind: &str, source: &Path, options: (MountFlags, &str)) -> io::Result<()> {
        process::fchdir(dir)?;
        let data = CString::new(options.1)?;
        Ok(mount(source, ".", kind, options.0, data.as_c_str())?)
    }

    fn copy_mount(&self, dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
        Ok(open_tree(dir, path, flags)?)
    }

    fn set_mount(&self, at: (BorrowedFd<'_>, &Path), change: &Attributes<'_>, recursive: bool) -> io::Result<()> {
        raw::mount_setattr(at.0, &CString::new(at.1.as_os_str().as_bytes())?, change, recursive)
    }

    fn attach(&self, mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(mount, "", place, "", flags)?)
    }

    fn detach(&self, path: &Path) -> io::Result<()> {
        Ok(unmount(path, UnmountFlags::DETACH)?)
    }

    fn user_namespace(&self, uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd> {
        raw::user_namespace(uids, gids)
    }

    fn enter_dir(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        Ok(process::fchdir(dir)?)
    }

    fn change_dir(&self, path: &Path) -> io::Result<()> {
        Ok(process::chdir(path)?)
    }

    fn pivot_root(&self) -> io::Result<()> {
        Ok(process::pivot_root(".", ".")?)
    }

    fn chroot(&self) -> io::Result<()> {
        Ok(process::chroot(".")?)
    }

    fn set_host_name(&self, name: &str) -> io::Result<()> {
        Ok(rustix::system::sethostname(name.as_bytes())?)
    }

    fn set_domain_name(&self, name: &str) -> io::Result<()> {
        Ok(rustix::system::setdomainname(name.as_bytes())?)
    }
}
