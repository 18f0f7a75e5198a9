//! The constants of profiles: actions, operators, flags.
use crate::container::{Error, Result, spec::SyscallArg};

/// What a filter answers (SECCOMP_RET_*), with the value in its low half.
pub(super) mod answer {
    pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(crate) const KILL_THREAD: u32 = 0;
    pub(crate) const TRAP: u32 = 0x0003_0000;
    pub(crate) const ERRNO: u32 = 0x0005_0000;
    pub(crate) const USER_NOTIF: u32 = 0x7fc0_0000;
    pub(crate) const TRACE: u32 = 0x7ff0_0000;
    pub(crate) const LOG: u32 = 0x7ffc_0000;
    pub(crate) const ALLOW: u32 = 0x7fff_0000;
    /// All but the value.
    pub(crate) const ACTION: u32 = 0xffff_0000;
}

/// Flags of seccomp(2).
pub(super) mod flag {
    pub(crate) const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
    pub(crate) const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    pub(crate) const SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    pub(crate) const NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    pub(crate) const TSYNC_ESRCH: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH as u32;
    pub(crate) const WAIT_KILLABLE_RECV: u32 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;
}

/// Error numbers beyond this one do not reach the caller.
const MAX_ERRNO: u32 = 4095;

const EPERM: u32 = libc::EPERM as u32;

/// The answer for an action, for messages with the object that has it and its keys for both.
pub(super) fn action(name: &str, value: Option<u32>, key: &str, [name_key, value_key]: [&str; 2]) -> Result<u32> {
    let plain = match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => answer::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => answer::KILL_PROCESS,
        "SCMP_ACT_TRAP" => answer::TRAP,
        "SCMP_ACT_ERRNO" => answer::ERRNO,
        "SCMP_ACT_TRACE" => answer::TRACE,
        "SCMP_ACT_ALLOW" => answer::ALLOW,
        "SCMP_ACT_LOG" => answer::LOG,
        "SCMP_ACT_NOTIFY" => answer::USER_NOTIF,
        _ => {
            let problem = format!(
                "{name:?} is no action: give SCMP_ACT_ALLOW, _ERRNO, _KILL, _KILL_THREAD, _KILL_PROCESS, _LOG, _NOTIFY, \
                 _TRACE or _TRAP"
            );
            return Err(Error::spec(format!("{key}.{name_key}"), problem));
        }
    };
    let most = match plain {
        answer::ERRNO => MAX_ERRNO,
        answer::TRACE => 0xffff,
        _ => {
            if value.is_none() {
                return Ok(plain);
            }
            let problem = format!("has no meaning with {name}: leave it out");
            return Err(Error::spec(format!("{key}.{value_key}"), problem));
        }
    };
    match value.unwrap_or(EPERM) {
        value if value <= most => Ok(plain | value),
        value => {
            let problem = format!("{value} is above {most}, the highest that {name} passes on");
            Err(Error::spec(format!("{key}.{value_key}"), problem))
        }
    }
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) test: Test,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Ne(u64),
    Lt(u64),
    Le(u64),
    Eq(u64),
    Ge(u64),
    Gt(u64),
    Masked { mask: u64, value: u64 },
}

impl Condition {
    pub(super) fn of(arg: &SyscallArg, key: &str) -> Result<Self> {
        let Ok(argument @ 0..=5) = u8::try_from(arg.index) else {
            let problem = format!("{} is no argument of a system call: give 0 to 5", arg.index);
            return Err(Error::spec(format!("{key}.index"), problem));
        };
        let value = arg.value;
        let test = match arg.op.as_str() {
            "SCMP_CMP_NE" => Test::Ne(value),
            "SCMP_CMP_LT" => Test::Lt(value),
            "SCMP_CMP_LE" => Test::Le(value),
            "SCMP_CMP_EQ" => Test::Eq(value),
            "SCMP_CMP_GE" => Test::Ge(value),
            "SCMP_CMP_GT" => Test::Gt(value),
            "SCMP_CMP_MASKED_EQ" => Test::Masked {
                mask: value,
                value: arg.value_two.unwrap_or(0),
            },
            other => {
                let problem =
                    format!("{other:?} is no comparison: give SCMP_CMP_NE, _LT, _LE, _EQ, _GE, _GT or _MASKED_EQ");
                return Err(Error::spec(format!("{key}.op"), problem));
            }
        };
        Ok(Self { argument, test })
    }
}

/// What the profile's flags come to.
pub(super) fn flags(names: &[String]) -> Result<u32> {
    let mut flags = 0;
    for (at, name) in names.iter().enumerate() {
        flags |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => flag::TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => flag::LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flag::SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => flag::WAIT_KILLABLE_RECV,
            _ => {
                let problem = format!(
                    "{name:?} is no flag: give SECCOMP_FILTER_FLAG_TSYNC, _LOG, _SPEC_ALLOW or _WAIT_KILLABLE_RECV"
                );
                return Err(Error::spec(format!("linux.seccomp.flags[{at}]"), problem));
            }
        };
    }
    Ok(flags)
}
