//! Compiled programs are run here by an interpreter and held against what the profile says, for every architecture;
//! `kernel` has the kernel run them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kernel;
mod machine;

use super::{
    Filter,
    architecture::Architecture,
    default,
    names::{Condition, Test, answer},
    rules::{Rules, Verdict},
    table::Table,
};
use crate::container::spec::Seccomp;
use machine::{Call, run};
use serde_json::json;
use std::collections::BTreeMap;

const EPERM: u32 = answer::ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = answer::ERRNO | libc::ENOSYS as u32;
const X32: u32 = super::program::X32;

fn profile(value: serde_json::Value) -> Seccomp {
    serde_json::from_value(value).unwrap()
}

fn compile(value: serde_json::Value, native: Architecture) -> Filter {
    Filter::compile_for(&profile(value), native).unwrap()
}

fn refusal(value: serde_json::Value) -> String {
    Filter::compile_for(&profile(value), Architecture::X86_64)
        .unwrap_err()
        .to_string()
}

/// The answer to a call by name.
fn answer_to(filter: &Filter, architecture: Architecture, name: &str, arguments: [u64; 6]) -> u32 {
    let number = Table::new().number(name, architecture).unwrap();
    let number = if architecture == Architecture::X32 {
        number | X32
    } else {
        number
    };
    run(
        &filter.program,
        &Call {
            number,
            audit: architecture.audit(),
            arguments,
        },
    )
}

#[test]
fn actions_become_the_kernels_answers() {
    let cases = [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(0), libc::SECCOMP_RET_ERRNO),
        ("SCMP_ACT_ERRNO", Some(4095), libc::SECCOMP_RET_ERRNO | 4095),
        ("SCMP_ACT_TRACE", Some(0xffff), libc::SECCOMP_RET_TRACE | 0xffff),
        ("SCMP_ACT_TRACE", None, libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", None, libc::SECCOMP_RET_USER_NOTIF),
    ];
    for (action, value, expected) in cases {
        let rule = json!({"names": ["getcwd"], "action": action, "errnoRet": value});
        let filter = compile(
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}),
            Architecture::X86_64,
        );
        assert_eq!(
            answer_to(&filter, Architecture::X86_64, "getcwd", [0; 6]),
            expected,
            "{action}"
        );
        assert_eq!(
            answer_to(&filter, Architecture::X86_64, "getpid", [0; 6]),
            libc::SECCOMP_RET_ALLOW
        );
        assert_eq!(filter.notifies(), action == "SCMP_ACT_NOTIFY");
    }
}

#[test]
fn comparisons_are_of_64_bits() {
    type Holds = fn(u64, u64) -> bool;
    let values = [
        0,
        1,
        2,
        0xffff_ffff,
        1 << 32,
        (1 << 32) + 1,
        (2 << 32) + 1,
        u64::MAX - 1,
        u64::MAX,
    ];
    let ops: [(&str, Holds); 7] = [
        ("NE", |a, v| a != v),
        ("LT", |a, v| a < v),
        ("LE", |a, v| a <= v),
        ("EQ", |a, v| a == v),
        ("GE", |a, v| a >= v),
        ("GT", |a, v| a > v),
        ("MASKED_EQ", |a, v| a & v == (v & 0x1_0000_0001)),
    ];
    for (op, holds) in ops {
        for value in values {
            let arg = json!({"index": 5, "value": value, "valueTwo": 0x1_0000_0001_u64,
                "op": format!("SCMP_CMP_{op}")});
            let rule = json!({"names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": [arg]});
            let filter = compile(
                json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}),
                Architecture::Aarch64,
            );
            for given in values {
                let answer = answer_to(&filter, Architecture::Aarch64, "mmap", [9, 9, 9, 9, 9, given]);
                let expected = if holds(given, value) { answer::ALLOW } else { EPERM };
                assert_eq!(answer, expected, "{given:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn rules_of_one_call_follow_libseccomp() {
    let eq = |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let filter = compile(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            // All conditions of a rule, then the next rule.
            {"names": ["dup3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11, "args": [eq(0, 1), eq(2, 3)]},
            {"names": ["dup3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 12, "args": [eq(0, 1)]},
            // The same argument twice: either.
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [eq(1, 9), eq(1, 15)]},
            // Without conditions: that one alone.
            {"names": ["tkill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 14, "args": [eq(1, 9)]},
            {"names": ["tkill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 15},
            {"names": ["tkill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16},
            // The default's action says nothing.
            {"names": ["getpid"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17},
            {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"},
        ]}),
        Architecture::X86_64,
    );
    let is = |name, arguments, errno| {
        let expected = if errno == 0 {
            answer::ALLOW
        } else {
            answer::ERRNO | errno
        };
        assert_eq!(
            answer_to(&filter, Architecture::X86_64, name, arguments),
            expected,
            "{name}"
        );
    };
    is("dup3", [1, 7, 3, 0, 0, 0], 11);
    is("dup3", [1, 7, 4, 0, 0, 0], 12);
    is("dup3", [2, 7, 3, 0, 0, 0], 0);
    is("kill", [1, 9, 0, 0, 0, 0], 13);
    is("kill", [1, 15, 0, 0, 0, 0], 13);
    is("kill", [1, 10, 0, 0, 0, 0], 0);
    is("tkill", [1, 9, 0, 0, 0, 0], 15);
    is("getpid", [0; 6], 17);
    assert_eq!(filter.unknown_calls().iter().collect::<Vec<_>>(), ["no_such_call"]);
}

#[test]
fn each_architecture_has_its_own_numbers() {
    let with = |architectures: &[&str], native| {
        let rule = json!({"names": ["getcwd"], "action": "SCMP_ACT_ERRNO"});
        let given = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": [rule]});
        compile(given, native)
    };
    let all = with(
        &["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_S390X"],
        Architecture::X86_64,
    );
    for it in [Architecture::X86_64, Architecture::X86, Architecture::X32] {
        assert_eq!(answer_to(&all, it, "getcwd", [0; 6]), EPERM, "{it:?}");
        assert_eq!(answer_to(&all, it, "getpid", [0; 6]), answer::ALLOW, "{it:?}");
    }
    assert_eq!(
        answer_to(&all, Architecture::Arm, "getpid", [0; 6]),
        answer::KILL_THREAD
    );
    let one = with(&[], Architecture::X86_64);
    for it in [Architecture::X86, Architecture::X32] {
        assert_eq!(answer_to(&one, it, "getpid", [0; 6]), answer::KILL_THREAD, "{it:?}");
    }
    let skipped = Call {
        number: u32::MAX,
        audit: Architecture::X86_64.audit(),
        arguments: [0; 6],
    };
    assert_eq!(run(&one.program, &skipped), answer::ALLOW);
    let arm = with(&["SCMP_ARCH_ARM"], Architecture::Aarch64);
    for it in [Architecture::Aarch64, Architecture::Arm] {
        assert_eq!(answer_to(&arm, it, "getcwd", [0; 6]), EPERM, "{it:?}");
    }
}

#[test]
fn calls_in_calls_of_32_bit_x86_are_found() {
    let filter = compile(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
            {"names": ["connect", "semtimedop"], "action": "SCMP_ACT_ERRNO"}]}),
        Architecture::X86_64,
    );
    let x86 = |name, wish| answer_to(&filter, Architecture::X86, name, [wish, 0, 0, 0, 0, 0]);
    assert_eq!(x86("connect", 0), EPERM);
    assert_eq!(x86("socketcall", 3), EPERM);
    assert_eq!(x86("socketcall", 1), answer::ALLOW);
    assert_eq!(x86("ipc", 4), EPERM);
    assert_eq!(x86("ipc", 0x1_0004), EPERM);
    assert_eq!(x86("ipc", 1), answer::ALLOW);
}

#[test]
fn calls_newer_than_a_profile_are_not_there() {
    let rules = json!([{"names": ["getcwd", "close_range"], "action": "SCMP_ACT_ALLOW"}]);
    let with = |default: &str| {
        let given = json!({"defaultAction": default, "syscalls": rules, "architectures": ["SCMP_ARCH_ARM"]});
        compile(given, Architecture::Aarch64)
    };
    let answer = |filter: &Filter, name| answer_to(filter, Architecture::Aarch64, name, [0; 6]);
    for (default, older, newer) in [
        ("SCMP_ACT_ERRNO", EPERM, ENOSYS),
        ("SCMP_ACT_KILL_PROCESS", answer::KILL_PROCESS, ENOSYS),
        ("SCMP_ACT_LOG", answer::LOG, answer::LOG),
        ("SCMP_ACT_TRACE", answer::TRACE | 1, answer::TRACE | 1),
    ] {
        let filter = with(default);
        assert_eq!(answer(&filter, "getpid"), older);
        assert_eq!(answer(&filter, "close_range"), answer::ALLOW);
        assert_eq!(answer(&filter, "openat2"), newer);
    }
    let nothing = compile(json!({"defaultAction": "SCMP_ACT_ERRNO"}), Architecture::Aarch64);
    assert_eq!(answer(&nothing, "openat2"), EPERM);
    let private = json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["getcwd", "set_tls"], "action": "SCMP_ACT_ALLOW"}]});
    let private = compile(private, Architecture::Aarch64);
    let arm = |name| answer_to(&private, Architecture::Arm, name, [0; 6]);
    assert_eq!(
        [arm("getpid"), arm("openat2"), arm("set_tls"), arm("cacheflush")],
        [EPERM, ENOSYS, answer::ALLOW, ENOSYS]
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let rule = |rule| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let arg = |arg| rule(json!({"names": ["dup"], "action": "SCMP_ACT_KILL", "args": [arg]}));
    let cases = [
        (
            json!({"defaultAction": "SCMP_ACT_NONE"}),
            "linux.seccomp.defaultAction: \"SCMP_ACT_NONE\"",
        ),
        (json!({}), "linux.seccomp.defaultAction: \"\""),
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction: cannot",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}),
            "linux.seccomp.defaultErrnoRet: has no",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}),
            "linux.seccomp.defaultErrnoRet: 4096",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}),
            "architectures[0]: \"SCMP_ARCH_Z80\"",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}),
            "linux.seccomp.flags[0]: \"FAST\"",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}),
            "linux.seccomp.listenerPath",
        ),
        (
            rule(json!({"names": ["dup"], "action": "KILL"})),
            "linux.seccomp.syscalls[0].action: \"KILL\"",
        ),
        (
            rule(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[0].action: write",
        ),
        (
            rule(json!({"names": [], "action": "SCMP_ACT_KILL"})),
            "linux.seccomp.syscalls[0].names",
        ),
        (
            arg(json!({"index": 6, "op": "SCMP_CMP_EQ"})),
            "linux.seccomp.syscalls[0].args[0].index: 6",
        ),
        (
            arg(json!({"index": 0, "op": "EQ"})),
            "linux.seccomp.syscalls[0].args[0].op: \"EQ\"",
        ),
    ];
    for (given, expected) in cases {
        let said = refusal(given);
        assert!(said.contains(expected), "{said}");
    }
    let many: Vec<_> = (0..5000)
        .map(|value| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"}))
        .collect();
    let said = refusal(rule(json!({"names": ["dup"], "action": "SCMP_ACT_KILL", "args": many})));
    assert!(said.contains("the kernel allows 4096"), "{said}");
}

/// What the profile says of a call, read off its rules, without a program.
fn expected(
    rules: &Rules,
    verdicts: &BTreeMap<u32, Verdict>,
    architecture: Architecture,
    (number, arguments): (u32, [u64; 6]),
) -> u32 {
    let Some(verdict) = verdicts.get(&number) else {
        let (last, _) = verdicts.range(..0xf_0000).next_back().unwrap();
        return if number > *last { rules.newer() } else { rules.default() };
    };
    let holds = |Condition { argument, test }: &Condition| {
        let width = if architecture.is_narrow() {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        };
        let given = arguments[usize::from(*argument)] & width;
        match *test {
            Test::Ne(value) => given != value & width,
            Test::Lt(value) => given < value & width,
            Test::Le(value) => given <= value & width,
            Test::Eq(value) => given == value & width,
            Test::Ge(value) => given >= value & width,
            Test::Gt(value) => given > value & width,
            Test::Masked { mask, value } => given & mask & width == value & mask & width,
        }
    };
    let case = verdict
        .cases
        .iter()
        .find(|(conditions, _)| conditions.iter().all(holds));
    verdict
        .always
        .or(case.map(|(_, answer)| *answer))
        .unwrap_or(rules.default())
}

#[test]
fn the_default_profile_compiles_to_what_it_says() {
    for native in [Architecture::X86_64, Architecture::Aarch64] {
        for capabilities in [vec![], vec!["CAP_SYS_ADMIN".to_owned(), "CAP_SYS_TIME".to_owned()]] {
            let profile = default::profile_for(&capabilities, native).unwrap();
            let filter = Filter::compile_for(&profile, native).unwrap();
            assert_eq!(filter.unknown_calls().iter().collect::<Vec<_>>(), [""; 0]);
            assert!(filter.program.len() < 1500, "{}", filter.program.len());
            let rules = Rules::of(&profile).unwrap();
            for architecture in super::architecture::of_profile(&profile.architectures, native).unwrap() {
                let verdicts = rules.verdicts(architecture);
                for number in 0..600 {
                    for first in [
                        0,
                        8,
                        37,
                        38,
                        39,
                        40,
                        41,
                        0x0002_0000,
                        0x1000_0000,
                        0xffff_ffff,
                        u64::MAX,
                    ] {
                        let arguments = [first, 0, 0, 0, 0, 0];
                        let bit = if architecture == Architecture::X32 { X32 } else { 0 };
                        let call = Call {
                            number: number | bit,
                            audit: architecture.audit(),
                            arguments,
                        };
                        let says = expected(&rules, &verdicts, architecture, (number, arguments));
                        assert_eq!(
                            run(&filter.program, &call),
                            says,
                            "{architecture:?} {number} {first:#x}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_default_profile_follows_capabilities() {
    let x86_64 = Architecture::X86_64;
    let filter = |capabilities: &[&str]| {
        let capabilities: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
        Filter::compile_for(&default::profile_for(&capabilities, x86_64).unwrap(), x86_64).unwrap()
    };
    let is = |filter: &Filter, name, first, expected| {
        assert_eq!(
            answer_to(filter, x86_64, name, [first, 0, 0, 0, 0, 0]),
            expected,
            "{name} {first:#x}"
        );
    };
    let plain = filter(&["CAP_CHOWN"]);
    for name in ["read", "openat", "execve", "futex", "ptrace", "arch_prctl"] {
        is(&plain, name, 0, answer::ALLOW);
    }
    for name in [
        "mount",
        "bpf",
        "setns",
        "unshare",
        "reboot",
        "kexec_load",
        "add_key",
        "io_uring_setup",
        "userfaultfd",
    ] {
        is(&plain, name, 0, EPERM);
    }
    is(&plain, "clone3", 0, ENOSYS);
    is(&plain, "clone", 0x0100_0011, answer::ALLOW);
    is(&plain, "clone", 0x1000_0000, EPERM);
    is(&plain, "socket", 2, answer::ALLOW);
    is(&plain, "socket", 38, EPERM); // AF_ALG
    is(&plain, "socket", 40, EPERM); // AF_VSOCK
    is(&plain, "socket", 41, answer::ALLOW);
    is(&plain, "personality", 8, answer::ALLOW);
    is(&plain, "personality", 0x0040_0000, EPERM);
    let admin = filter(&["CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYSLOG"]);
    for name in ["mount", "bpf", "setns", "unshare", "reboot", "clone3", "syslog"] {
        is(&admin, name, 0x1000_0000, answer::ALLOW);
    }
    is(&admin, "clone", 0x1000_0000, answer::ALLOW);
    is(&admin, "kexec_load", 0, EPERM);
}

#[test]
fn numbers_are_those_of_the_c_library() {
    let table = Table::new();
    let native = Architecture::native();
    for (name, number) in [
        ("read", libc::SYS_read),
        ("execve", libc::SYS_execve),
        ("clone", libc::SYS_clone),
        ("clone3", libc::SYS_clone3),
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("newfstatat", libc::SYS_newfstatat),
        ("seccomp", libc::SYS_seccomp),
        ("bpf", libc::SYS_bpf),
        ("socket", libc::SYS_socket),
        ("ptrace", libc::SYS_ptrace),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("openat2", libc::SYS_openat2),
        ("mseal", libc::SYS_mseal),
        ("fadvise64", libc::SYS_fadvise64),
        ("rseq", libc::SYS_rseq),
        ("futex_waitv", libc::SYS_futex_waitv),
        ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
    ] {
        assert_eq!(table.number(name, native).map(i64::from), Some(number), "{name}");
    }
    // The same on all since 5.1.
    let newest = [
        Architecture::X86_64,
        Architecture::X86,
        Architecture::X32,
        Architecture::Aarch64,
        Architecture::Arm,
    ];
    assert!(newest.iter().all(|it| table.number("pidfd_open", *it) == Some(434)));
    let of = |name, architecture| table.number(name, architecture);
    assert_eq!(of("socketcall", Architecture::X86), Some(102));
    assert_eq!(of("readv", Architecture::X32), Some(515));
    assert_eq!(of("set_tls", Architecture::Arm), Some(0xf_0005));
    assert_eq!(of("open", Architecture::Aarch64), None);
}
