//! Filters in the kernel: a child loads one, makes calls, and ends in a way that tells what came of them.
#![allow(
    unsafe_code,
    reason = "a filter stays for good, so it is loaded in a child, which fork makes"
)]
use super::{Filter, compile};
use crate::container::{
    seccomp::{Architecture, notify::ProcessState},
    spec::Seccomp,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixListener, process::ExitStatusExt},
    },
    process::ExitStatus,
};

/// Loads the filter in a child and gives how the child ended; what `then` answers is its exit code.
fn child(filter: &Filter, then: impl FnOnce() -> i32) -> ExitStatus {
    // SAFETY: the child makes system calls and ends; it takes no lock that another thread may hold.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: it only writes a flag of this process.
        let alone = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        let code = if alone == 0 && filter.load().is_ok() {
            then()
        } else {
            99
        };
        // SAFETY: it ends the child without running what belongs to the parent.
        unsafe { libc::_exit(code) };
    }
    wait(pid)
}

fn wait(pid: i32) -> ExitStatus {
    let mut status = 0;
    // SAFETY: `status` lives for the whole call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    ExitStatus::from_raw(status)
}

/// The call's error number, 0 without one.
fn errno_of(number: i64, first: u64) -> i32 {
    // SAFETY: the calls of these tests take numbers only, or refuse a null pointer.
    match unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(98),
        _ => 0,
    }
}

fn native(action: &str) -> Filter {
    compile(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": action}]}),
        Architecture::native(),
    )
}

#[test]
fn each_action_does_what_it_says() {
    let end = |action| child(&native(action), || errno_of(libc::SYS_getpgid, 0));
    assert_eq!(end("SCMP_ACT_ALLOW").code(), Some(0));
    assert_eq!(end("SCMP_ACT_LOG").code(), Some(0));
    assert_eq!(end("SCMP_ACT_ERRNO").code(), Some(libc::EPERM));
    // Without a tracer.
    assert_eq!(end("SCMP_ACT_TRACE").code(), Some(libc::ENOSYS));
    assert_eq!(end("SCMP_ACT_TRAP").signal(), Some(libc::SIGSYS));
    assert_eq!(end("SCMP_ACT_KILL").signal(), Some(libc::SIGSYS));
    assert_eq!(end("SCMP_ACT_KILL_PROCESS").signal(), Some(libc::SIGSYS));
}

#[test]
fn conditions_hold_in_the_kernel() {
    let rule = |op: &str, value: u64, errno| {
        json!({"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
            "args": [{"index": 0, "value": value, "op": op}]})
    };
    let rules = json!([rule("SCMP_CMP_GT", 1 << 40, 70), rule("SCMP_CMP_EQ", 1 << 32, 71)]);
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules,
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]});
    let filter = compile(filter, Architecture::native());
    for (given, expected) in [(0, 0), ((1 << 40) + 1, 70), (1 << 32, 71), (1 << 40, 0)] {
        assert_eq!(
            child(&filter, || errno_of(libc::SYS_getpgid, given)).code(),
            Some(expected)
        );
    }
}

#[test]
fn the_default_profile_runs_a_program_and_stops_others() {
    let filter = Filter::compile(&crate::container::seccomp::default::profile(&[]).unwrap()).unwrap();
    let end = child(&filter, || {
        let refused = [
            errno_of(libc::SYS_mount, 0) == libc::EPERM,
            errno_of(libc::SYS_unshare, 0x1000_0000) == libc::EPERM,
            errno_of(libc::SYS_clone3, 0) == libc::ENOSYS,
            errno_of(libc::SYS_socket, 40) == libc::EPERM,
        ];
        if refused != [true; 4] {
            return 1;
        }
        let arguments = [c"true".as_ptr(), std::ptr::null()];
        // SAFETY: both arrays end with a null pointer and live on.
        unsafe { libc::execve(c"/bin/true".as_ptr(), arguments.as_ptr(), [std::ptr::null()].as_ptr()) };
        2
    });
    assert_eq!(end.code(), Some(0));
}

#[test]
fn notifications_are_handed_to_the_listener() {
    let folder = std::env::temp_dir().join(format!("coracle-notify-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    let rules = json!([{"names": ["getpgid"], "action": "SCMP_ACT_NOTIFY"}]);
    let profile: Seccomp = serde_json::from_value(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m", "syscalls": rules}),
    )
    .unwrap();
    let filter = Filter::compile(&profile).unwrap();
    assert!(filter.notifies());
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: as above; the child only writes the number of its descriptor and makes the call.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = match filter.load() {
            Ok(Some(notifications)) => {
                let number = notifications.as_raw_fd().to_ne_bytes();
                rustix::io::write(&writer, &number).map_or(97, |_| errno_of(libc::SYS_getpgid, 0))
            }
            _ => 99,
        };
        // SAFETY: as above.
        unsafe { libc::_exit(code) };
    }
    let mut number = [0; 4];
    std::io::Read::read_exact(&mut reader, &mut number).unwrap();
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let notifications = rustix::process::pidfd_getfd(process, i32::from_ne_bytes(number), flags).unwrap();
    let state = json!({"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": pid, "bundle": "/b"});
    let told = ProcessState::new("1.2.0", pid, profile.listener_metadata.clone(), state.clone());
    told.hand_over(&path, notifications).unwrap();

    let (received, text) = receive(&listener);
    let expected = json!({"ociVersion": "1.2.0", "fds": ["seccompFd"], "pid": pid, "metadata": "m", "state": state});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
    answer(&received, libc::EXDEV);
    assert_eq!(wait(pid).code(), Some(libc::EXDEV));
    std::fs::remove_dir_all(folder).unwrap();
}

/// The listener's part: the descriptor and the text.
fn receive(listener: &UnixListener) -> (OwnedFd, String) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut messages,
        RecvFlags::empty(),
    )
    .unwrap();
    text.truncate(got.bytes);
    let mut descriptors = messages.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let descriptor = descriptors.next().unwrap();
    std::io::Read::read_to_end(&mut stream, &mut text).unwrap();
    (descriptor, String::from_utf8(text).unwrap())
}

/// Takes one notification and lets its call fail.
fn answer(notifications: &OwnedFd, errno: i32) {
    // SAFETY: all fields of the structs are numbers.
    let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let receive = libc::SECCOMP_IOCTL_NOTIF_RECV;
    // SAFETY: the kernel writes one struct, which lives on.
    let got = unsafe { libc::ioctl(notifications.as_raw_fd(), receive as _, &raw mut request) };
    assert_eq!(got, 0);
    assert_eq!(i64::from(request.data.nr), libc::SYS_getpgid);
    let response = libc::seccomp_notif_resp {
        id: request.id,
        val: 0,
        error: -errno,
        flags: 0,
    };
    let send = libc::SECCOMP_IOCTL_NOTIF_SEND;
    // SAFETY: the kernel reads one struct, which lives on.
    let sent = unsafe { libc::ioctl(notifications.as_raw_fd(), send as _, &raw const response) };
    assert_eq!(sent, 0);
}
