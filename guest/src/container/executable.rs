//! This program's own file. A process that enters a container shows the file that it was started from in
//! `/proc/PID/exe`, and the container's user 0 may be the host's: whoever runs it once more from there, or holds it open
//! until it can be written, would own the runtime of every other container (CVE-2019-5736).
//!
//! So commands that make processes in containers run from a copy in memory that nobody can change.
use super::{Error, Result, calls};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create},
    io::Errno,
};
use std::{
    ffi::{CString, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
};

const SEALED: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// Goes on as a sealed copy of this program, with the same arguments and environment. Comes back at once if this
/// process is one already. To be called before anything is opened or started.
///
/// # Errors
/// The copy cannot be made or run.
pub fn run_from_copy() -> Result<()> {
    let wish = "open this program's file /proc/self/exe";
    let mut own = File::open("/proc/self/exe").map_err(Error::step(wish))?;
    // Files that cannot be sealed have no seals to tell of.
    if fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SEALED)) {
        return Ok(());
    }
    let wish = "copy this program to memory, so that containers cannot change it";
    let mut copy = File::from(memory().map_err(Error::step(wish))?);
    io::copy(&mut own, &mut copy).map_err(Error::step(wish))?;
    fcntl_add_seals(&copy, SEALED).map_err(Error::step(wish))?;
    let arguments = std::env::args_os().filter_map(c_string).collect::<Vec<_>>();
    let environment = std::env::vars_os().filter_map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        c_string(name)
    });
    let error = calls::execute_file(copy.as_fd(), &arguments, &environment.collect::<Vec<_>>());
    Err(Error::step("run the copy of this program in memory")(error))
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
