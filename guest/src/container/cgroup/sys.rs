//! bpf(2) for programs that decide about device nodes. Owns nothing.
#![allow(
    unsafe_code,
    reason = "the system call takes a struct that says what is meant by pointers in it"
)]
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Commands and constants of linux/bpf.h.
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// How many programs a cgroup of ours may have; the kernel allows 64.
const MAX_ATTACHED: usize = 64;

/// One instruction, as the kernel wants it (struct bpf_insn).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// The destination in the low half, the source in the high one.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) value: i32,
}

/// The part of the kernel's union that each command reads, in the kernel's order.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Loads a program and attaches it to a cgroup, then takes off those that were attached there before: in between, both
/// have to allow, so nothing slips through.
pub(super) fn attach(program: &[Instruction], cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let earlier = attached(cgroup)?;
    let program = load(program)?;
    command(PROG_ATTACH, &mut of(cgroup, &program, ALLOW_MULTI))?;
    for id in earlier {
        let program = by_id(id)?;
        command(PROG_DETACH, &mut of(cgroup, &program, 0))?;
    }
    Ok(())
}

fn of(cgroup: BorrowedFd<'_>, program: &OwnedFd, flags: u32) -> Attach {
    Attach {
        target: number(cgroup.as_raw_fd()),
        program: number(program.as_raw_fd()),
        kind: CGROUP_DEVICE,
        flags,
    }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    let descriptor = command(PROG_LOAD, &mut load)?;
    // SAFETY: the kernel answers with a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The programs that a cgroup has itself.
fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_ATTACHED];
    let mut query = Query {
        target: number(cgroup.as_raw_fd()),
        kind: CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_ATTACHED as u32,
        ..Query::default()
    };
    command(PROG_QUERY, &mut query)?;
    ids.truncate(query.count as usize);
    Ok(ids)
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut wanted = ById { id, ..ById::default() };
    let descriptor = command(PROG_GET_FD_BY_ID, &mut wanted)?;
    // SAFETY: the kernel answers with a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: i32) -> u32 {
    descriptor.cast_unsigned()
}

/// One command; `what` is the part of the union that it reads.
fn command<T>(command: i32, what: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes the struct within its size, and what its pointers name within the counts
    // beside them; the callers above hold all of it for the whole call.
    let end = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(what), size_of::<T>()) };
    if end < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(end as i32)
}
