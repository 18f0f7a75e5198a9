//! The system calls of a container's life that no safe interface offers. Each is one call, named after what it does;
//! policy is elsewhere.
//!
//! Processes are forked from processes of a single thread only: [`fork`] refuses anything else, because what another
//! thread holds (the allocator's lock, a half-written buffer) would stay as it is in the new process for ever.
#![allow(
    unsafe_code,
    reason = "clone3, execve, signal masks and a few attributes of processes have no safe interface"
)]
use rustix::process::{Pid, RawPid, Signal};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_long},
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    ptr,
};

/// `struct clone_args` of `linux/sched.h`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A new process that goes on where this one is: `None` in the new one, its id in this one. `flags` are `CLONE_NEW*`;
/// with a `cgroup` (a descriptor of its folder) the process is born in it.
pub(super) fn fork(flags: c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Pid>> {
    // The folder has "." and ".." and one folder for each thread.
    let links = fs::metadata("/proc/self/task")?.nlink();
    if links != 3 {
        let threads = links.saturating_sub(2);
        return Err(io::Error::other(format!(
            "a process with {threads} threads cannot be forked"
        )));
    }
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(folder) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(folder.as_raw_fd().cast_unsigned());
    }
    clone(&args)
}

/// As [`fork`], by a process that came of one and has one thread, therefore: the new process is its sibling. It may see
/// a `/proc` by now in which it is not itself.
pub(super) fn fork_sibling(flags: c_int) -> io::Result<Option<Pid>> {
    // The signal at its end is that of this process.
    clone(&CloneArgs {
        flags: u64::from((flags | libc::CLONE_PARENT).cast_unsigned()),
        ..CloneArgs::default()
    })
}

fn clone(args: &CloneArgs) -> io::Result<Option<Pid>> {
    // SAFETY: `args` is a whole `clone_args` and asks for no shared memory, so the new process has a copy of this one;
    // both callers have one thread, so nothing in the copy is half done or locked.
    let result = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(args), size_of::<CloneArgs>()) };
    Ok(Pid::from_raw(answer(result)? as RawPid))
}

/// Becomes another program. Returns only if that fails.
pub(super) fn execute(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both lists end with a null pointer and point to strings that their callers keep until after the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Becomes the program that is open as `file`, with this process's environment. Returns only if that fails.
pub(super) fn execute_file(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: as above; the empty path ends with its null byte, and the descriptor is open.
    unsafe {
        libc::execveat(
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr().cast(),
            env.as_ptr().cast(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(list: &[CString]) -> Vec<*const c_char> {
    list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// Ends this process at once: nothing is flushed and no destructor runs, since these belong to the process that it was
/// forked from.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: no argument can make it unsound.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default action and lets all of them in: a program expects no less, and this one ignores
/// SIGPIPE.
pub(super) fn reset_signals() {
    for signal in 1..=31 {
        // SAFETY: the default action runs no code of this process. Those that cannot be set are at their default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = signal_set(false);
    // SAFETY: the set is initialised, the old one is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// Holds all signals back and gives a descriptor that tells of them.
pub(super) fn catch_signals() -> io::Result<OwnedFd> {
    let set = signal_set(true);
    // SAFETY: the set is initialised, the old one is not wanted.
    answer(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) }.into())?;
    // SAFETY: the set is initialised.
    let fd = answer(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into())?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A signal by its number, real-time ones included.
pub fn signal(number: i32) -> Option<Signal> {
    // SAFETY: signals are only sent, never waited for or handled, so those that the C library keeps for itself are
    // numbers like others.
    (1..=64)
        .contains(&number)
        .then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// Size of what a signal descriptor tells of one signal.
pub(super) const SIGNAL_INFO: usize = size_of::<libc::signalfd_siginfo>();

fn signal_set(full: bool) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    if full {
        // SAFETY: the call writes a whole set.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
    } else {
        // SAFETY: the call writes a whole set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    }
    // SAFETY: one of the calls above has written it; neither can fail with a valid pointer.
    unsafe { set.assume_init() }
}

/// Sets CLOEXEC on all descriptors from `first` on (Linux 5.11).
pub(super) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only marks descriptors; nothing is closed while somebody owns it.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    answer(result).map(drop)
}

/// The descriptor that a caller left open for the container, as `--preserve-fds` wants.
pub(super) fn is_open(fd: RawFd) -> bool {
    // SAFETY: asks for the flags of a number, whatever it is.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Leaves the session keyring of the caller for a new one of that name.
pub(super) fn join_new_keyring(name: &CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the name ends with its null byte and is only read.
    answer(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// personality(2).
pub(super) fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: changes how the kernel answers this process from now on, its memory stays as it is.
    answer(unsafe { libc::personality(domain.into()) }.into()).map(drop)
}

/// Which process's turn at the disks this is: `class << 13 | level` of ioprio_set(2).
pub(super) fn set_io_priority(process: Pid, priority: i32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: three numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            process.as_raw_nonzero().get(),
            priority,
        )
    };
    answer(result).map(drop)
}

/// `struct sched_attr` of sched_setattr(2), first version.
#[repr(C)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SchedulerAttributes {
    pub(super) size: u32,
    pub(super) policy: u32,
    pub(super) flags: u64,
    pub(super) nice: i32,
    pub(super) priority: u32,
    pub(super) runtime: u64,
    pub(super) deadline: u64,
    pub(super) period: u64,
}

/// sched_setattr(2).
pub(super) fn set_scheduler(process: Pid, attributes: &SchedulerAttributes) -> io::Result<()> {
    // SAFETY: the structure is as long as its `size` says, which the constructor sets, and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            process.as_raw_nonzero().get(),
            ptr::from_ref(attributes),
            0,
        )
    };
    answer(result).map(drop)
}

/// sched_setaffinity(2) of the caller, with a bit for each CPU.
pub(super) fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // SAFETY: the length is the mask's, which is only read.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) };
    answer(result).map(drop)
}

/// Brings a network interface of the caller's namespace up.
pub(super) fn bring_up(socket: BorrowedFd<'_>, interface: &CStr) -> io::Result<()> {
    // SAFETY: all bytes zero is a valid request: a union of numbers, and an array of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.to_bytes()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is a whole `ifreq` with its flags set, and is only read.
    answer(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// What kind of namespace an open file is (`CLONE_NEW*`, ioctl_ns(2)).
pub(super) fn kind_of_namespace(file: BorrowedFd<'_>) -> io::Result<c_int> {
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: the request has no argument.
    answer(unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) }.into()).map(|kind| kind as c_int)
}

/// setns(2), with a namespace or the descriptor of a process and the kinds to join (`CLONE_NEW*`).
pub(super) fn join(file: BorrowedFd<'_>, kinds: c_int) -> io::Result<()> {
    // SAFETY: a single thread changes its own view; no memory is touched.
    answer(unsafe { libc::setns(file.as_raw_fd(), kinds) }.into()).map(drop)
}

/// unshare(2), for namespaces.
pub(super) fn leave(kinds: c_int) -> io::Result<()> {
    // SAFETY: a single thread changes its own view; descriptors and memory stay shared with nobody, as they were.
    answer(unsafe { libc::unshare(kinds) }.into()).map(drop)
}

fn answer(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<CloneArgs>(), 88);
        assert_eq!(size_of::<SchedulerAttributes>(), 48);
    }

    #[test]
    fn a_process_of_several_threads_is_not_forked() {
        let waiting = std::thread::spawn(std::thread::park);
        let error = fork(0, None).expect_err("a second thread");
        assert!(error.to_string().contains("threads cannot be forked"), "{error}");
        waiting.thread().unpark();
        waiting.join().unwrap();
    }
}
