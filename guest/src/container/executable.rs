//! This program's own file. A process that enters a container shows the file that it was started from in
//! `/proc/PID/exe`, and the container's user 0 may be the host's: whoever runs it once more from there, or holds it open
//! until it can be written, would own the runtime of every other container (CVE-2019-5736).
//!
//! So commands that make processes in containers run from a mount of that file which is read-only and part of no
//! namespace, so that nobody can find it and make it writable again; or, without the right to mount, from a copy in memory
//! that nobody can change, which takes longer.
use super::{
    Error, Result, calls,
    system::{Attributes, KernelCalls, System as _},
};
use rustix::{
    fs::{CWD, MemfdFlags, SealFlags, StatVfsMountFlags, fcntl_add_seals, fcntl_get_seals, memfd_create, statvfs},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};
use std::{
    ffi::{CString, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::Path,
};

const OWN: &str = "/proc/self/exe";
const SEALED: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// Goes on as this program from a file that containers cannot change, with the same arguments and environment. Comes
/// back at once if this process does so already. To be called before anything is opened or started.
///
/// # Errors
/// There is no way to such a file, or it cannot be run.
pub fn run_out_of_reach() -> Result<()> {
    // On a read-only mount it is out of reach, whoever made it so.
    let place = statvfs(OWN).map_err(Error::step("look at this program's file /proc/self/exe"))?;
    if place.f_flag.contains(StatVfsMountFlags::RDONLY) || is_sealed() {
        return Ok(());
    }
    let file = match read_only_mount() {
        Ok(file) => file,
        Err(_) => sealed_copy().map_err(Error::step(
            "copy this program to memory, so that containers cannot change it",
        ))?,
    };
    let arguments: Vec<_> = std::env::args_os().filter_map(c_string).collect();
    let environment = std::env::vars_os().filter_map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        c_string(name)
    });
    let error = calls::execute_file(file.as_fd(), &arguments, &environment.collect::<Vec<_>>());
    Err(Error::step(
        "run this program from a place that containers cannot reach",
    )(error))
}

/// Files that cannot be sealed have no seals to tell of.
fn is_sealed() -> bool {
    File::open(OWN).is_ok_and(|own| fcntl_get_seals(own).is_ok_and(|seals| seals.contains(SEALED)))
}

fn read_only_mount() -> io::Result<OwnedFd> {
    let mount = open_tree(
        CWD,
        OWN,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    KernelCalls.set_mount((mount.as_fd(), Path::new("")), &Attributes::READ_ONLY, false)?;
    Ok(mount)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let mut own = File::open(OWN)?;
    let mut copy = File::from(memory()?);
    io::copy(&mut own, &mut copy)?;
    fcntl_add_seals(&copy, SEALED)?;
    Ok(copy.into())
}

fn memory() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("coracle-oci", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 all of them can be executed.
        Err(Errno::INVAL) => memfd_create("coracle-oci", flags),
        result => result,
    }
}

/// What came from the kernel has no null byte in it.
fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}
