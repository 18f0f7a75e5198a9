//! The system calls that no safe interface offers: attributes of mounts, and a user namespace for its ids alone.
#![allow(
    unsafe_code,
    reason = "mount_setattr(2) and a process made by clone(2) have no safe interface"
)]
use super::{Attributes, Propagation};
use crate::container::spec::IdMapping;
use rustix::mount::MountAttrFlags;
use std::{
    ffi::CStr,
    fmt::Write as _,
    fs::{self, File},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const AT_RECURSIVE: libc::c_int = 0x8000;

/// mount_setattr(2), of Linux 5.12.
pub(super) fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    change: &Attributes<'_>,
    recursive: bool,
) -> io::Result<()> {
    let mut set = change.set;
    let mut user_namespace = 0;
    if let Some(namespace) = change.ids_of {
        set |= MountAttrFlags::MOUNT_ATTR_IDMAP;
        user_namespace = u64::from(namespace.as_raw_fd().unsigned_abs());
    }
    let attributes = MountAttr {
        set: set.bits().into(),
        clear: change.clear.bits().into(),
        propagation: change.propagation.map_or(0, |propagation| match propagation {
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }),
        user_namespace,
    };
    let mut flags = if recursive { AT_RECURSIVE } else { 0 };
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    // SAFETY: the kernel reads the path up to its end and as many bytes of the attributes as it is told; both outlive
    // the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A user namespace with these ids: a process is made in one, which does nothing and ends before this returns.
pub(super) fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd> {
    let holder = Holder::new()?;
    let file = |name: &str| format!("/proc/{}/{name}", holder.process);
    fs::write(file("uid_map"), lines(uids))?;
    fs::write(file("gid_map"), lines(gids))?;
    Ok(File::open(file("ns/user"))?.into())
}

fn lines(mappings: &[IdMapping]) -> String {
    let mut lines = String::new();
    for mapping in mappings {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{} {} {}", mapping.container_id, mapping.host_id, mapping.size);
    }
    lines
}

/// A process that waits in a user namespace of its own.
struct Holder {
    process: libc::pid_t,
}

impl Holder {
    fn new() -> io::Result<Self> {
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
        // SAFETY: without CLONE_VM and with no stack given this is fork(2): the child has a copy of everything. The
        // order of the pointers that differs between architectures does not matter, since all are null.
        let process = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        match process {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: a bare system call, as anything must be here: another thread may have held a lock when the
                // copy was made. It sees to it that nothing is left behind if the maker is killed.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                loop {
                    // SAFETY: as above.
                    unsafe { libc::pause() };
                }
            }
            process => Ok(Self {
                process: process as libc::pid_t,
            }),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: the process is a child that was not waited for, so the number is its own still.
        unsafe { libc::kill(self.process, libc::SIGKILL) };
        // SAFETY: as above; a null pointer is allowed where the status is not wanted.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), libc::__WALL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_attributes_have_the_kernels_layout() {
        assert_eq!(size_of::<MountAttr>(), 32);
        assert_eq!(std::mem::offset_of!(MountAttr, user_namespace), 24);
    }

    #[test]
    fn ids_are_written_as_the_kernel_reads_them() {
        let mapping = |container_id, host_id| IdMapping {
            container_id,
            host_id,
            size: 3,
        };
        assert_eq!(lines(&[mapping(0, 7), mapping(3, 100)]), "0 7 3\n3 100 3\n");
    }
}
