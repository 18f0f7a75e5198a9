//! seccomp(2), for which there is no safe wrapper. Owns nothing.
#![allow(unsafe_code, reason = "the system call takes a pointer to the program")]
use super::{names::flag::NEW_LISTENER, program::Instruction};
use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// What the kernel reads (struct sock_fprog).
#[repr(C)]
struct Program {
    len: u16,
    instructions: *const Instruction,
}

/// Loads a program for the calling thread; the descriptor of notifications with [`NEW_LISTENER`].
pub(super) fn load(instructions: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let program = Program {
        len: u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr(),
    };
    // SAFETY: the kernel reads `len` instructions, which `instructions` holds for the whole call, and checks them.
    let end = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if end < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with this flag the kernel answers with a new descriptor, which is nobody else's.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(end as i32) }))
}
