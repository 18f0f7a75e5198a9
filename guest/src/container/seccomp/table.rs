//! Numbers of system calls. `syscalls.tsv` is made by resources/seccomp/syscalls.py from the kernel's headers.
use super::{
    architecture::Architecture,
    names::{Condition, Test},
};
use std::collections::BTreeMap;

const TABLE: &str = include_str!("syscalls.tsv");

/// Calls by name, each with its number on each architecture.
pub(super) struct Table(BTreeMap<&'static str, [Option<u32>; 5]>);

impl Table {
    /// Reads it: some 500 lines.
    pub(super) fn new() -> Self {
        let lines = TABLE.lines().skip(1).map(|line| {
            let mut fields = line.split('\t');
            let name = fields.next().unwrap_or_default();
            (name, std::array::from_fn(|_| fields.next()?.parse().ok()))
        });
        Self(lines.collect())
    }

    /// Whether any architecture has it.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name) || multiplexed(name).is_some()
    }

    /// Its number, without the bit of x32.
    pub(super) fn number(&self, name: &str, architecture: Architecture) -> Option<u32> {
        let [x86_64, x86, x32, aarch64, arm] = *self.0.get(name)?;
        match architecture {
            Architecture::X86_64 => x86_64,
            Architecture::X86 => x86,
            Architecture::X32 => x32,
            Architecture::Aarch64 => aarch64,
            Architecture::Arm => arm,
        }
    }
}

/// The calls of 32-bit x86 that also go through one that takes the wish as its first argument: that one's number, and
/// how its argument looks. The other arguments are then behind a pointer, where no filter sees them.
pub(super) fn multiplexed(name: &str) -> Option<(u32, Condition)> {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let test = |mask, value| Condition {
        argument: 0,
        test: Test::Masked { mask, value },
    };
    // From linux/net.h, from 1 on.
    let sockets = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    if let Some(at) = sockets.iter().position(|it| *it == name) {
        return Some((SOCKETCALL, test(u64::from(u32::MAX), at as u64 + 1)));
    }
    // From linux/ipc.h; the upper half is a version that the kernel cuts off.
    let wish = match name {
        "semop" => 1,
        "semget" => 2,
        "semctl" => 3,
        "semtimedop" => 4,
        "msgsnd" => 11,
        "msgrcv" => 12,
        "msgget" => 13,
        "msgctl" => 14,
        "shmat" => 21,
        "shmdt" => 22,
        "shmget" => 23,
        "shmctl" => 24,
        _ => return None,
    };
    Some((IPC, test(0xffff, wish)))
}
