//! The probe: starts VMMs, waits for their guests, and looks at both. As PID 1 it is the guest's first program instead.
//!
//! `coracle-probe boot|io ORDER ANSWER`: reads what to do as JSON, writes answers as JSON, one line on standard output
//! per step. Runs as root, on a machine with `/dev/kvm`, debugfs and tracefs; changes the settings of the latter.
mod guest;
mod host;

use std::{path::Path, process::ExitCode};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["boot", order, answer] => host::boots::run(Path::new(order), Path::new(answer)),
        ["io", order, answer] => host::trials::run(Path::new(order), Path::new(answer)),
        _ => Err("usage: coracle-probe boot|io ORDER ANSWER".into()),
    };
    if let Err(error) = done {
        eprintln!("coracle-probe: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The clock that the kernel's trace uses too.
fn now_ms() -> f64 {
    #[allow(
        clippy::cast_precision_loss,
        reason = "below 2^53 for the next hundred days of uptime"
    )]
    let nanoseconds = now_ns() as f64;
    nanoseconds / 1e6
}

fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or_default()
}
