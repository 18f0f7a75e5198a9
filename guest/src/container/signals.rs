//! Names of signals, as people and other tools write them.
use super::{Error, Result, calls};
use rustix::process::Signal;

/// From SIGHUP, which is 1, on (signal(7), for x86-64 and aarch64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// The first real-time signal that the C library leaves to programs, and the last.
const REAL_TIME: (i32, i32) = (34, 64);

/// A signal by its number or its name, with SIG before it or without: "9", "KILL", "SIGRTMIN+3".
pub fn parse(text: &str) -> Result<Signal> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match name {
        "IOT" => Some(libc::SIGABRT),
        "CLD" => Some(libc::SIGCHLD),
        "POLL" => Some(libc::SIGIO),
        _ => name.parse().ok().or_else(|| by_name(name)).or_else(|| real_time(name)),
    };
    number.and_then(calls::signal).ok_or_else(|| {
        Error::Refused(format!(
            "there is no signal {text:?}; give a name like SIGTERM or a number to 64"
        ))
    })
}

fn by_name(name: &str) -> Option<i32> {
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|at| i32::try_from(at + 1).ok())
}

fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        REAL_TIME.0 + offset(rest, '+')?
    } else {
        REAL_TIME.1 - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (REAL_TIME.0..=REAL_TIME.1).contains(&number).then_some(number)
}

fn offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        Some(0)
    } else {
        text.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("SYS", 31),
            ("RTMIN+3", 37),
            ("SIGRTMIN", 34),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text).unwrap().as_raw(), number, "{text}");
        }
        for wrong in ["", "0", "65", "-9", "SIG", "KILLS", "RTMIN-1", "RTMIN+31", "RTMAX+1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
