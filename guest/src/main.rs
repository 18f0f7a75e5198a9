//! PID 1 of a coracle guest: gets the machine going, then runs one command, tells the VMM how it ended and powers off; or
//! serves the host as its agent, if the kernel command line asks for that.
//!
//! Everything but the agent happens on the main thread, and a thread of its own watches the power button. Nothing here
//! panics: what goes wrong becomes a line on the console and a report to the VMM, and the guest powers off.
mod boot;
mod command;
mod console;
mod host_agent;
mod power;
mod report;
mod sys;

use command::Work;
use coracle_guest::agent;
use coracle_protocol::{
    cmdline::{self, Cmdline},
    report::{Report, Timings},
    sandbox::{self, Token},
};
use report::AgentPort;
use rustix::time::{ClockId, clock_gettime};
use std::error::Error as _;

/// Why PID 1 could not do its work.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    /// A step failed in the kernel.
    #[error("cannot {wish}")]
    Step {
        /// What was to be done.
        wish: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The command line makes no sense.
    #[error("cannot read the command to run")]
    Cmdline(#[from] cmdline::CmdlineError),
    /// Two commands.
    #[error("the kernel command line has a command in `coracle.exec` and another after `--`: keep one of them")]
    TwoCommands,
    /// No token.
    #[error(
        "`{}` is missing or has not 32 hexadecimal digits: an agent needs one",
        cmdline::TOKEN
    )]
    Token,
    /// The agent cannot start.
    #[error("the agent cannot start")]
    Agent(#[from] agent::AgentError),
    /// An unknown role.
    #[error("`coracle.role={0}` is no role that this program knows: leave it out to run a command")]
    Role(String),
}

impl GuestError {
    fn step(wish: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let wish = wish.into();
        move |errno| Self::Step {
            wish,
            source: errno.into(),
        }
    }
}

fn main() {
    let init = now();
    if std::process::id() != 1 {
        console::say("this is the first program of a virtual machine; it does nothing elsewhere");
        return;
    }
    // The kernel command line, which only /proc shows, says what this program shall be.
    let line = boot::mount_proc().and_then(|()| boot::cmdline());
    let end = line.and_then(|line| match line.value(cmdline::ROLE) {
        None => run_guest(init, &line),
        Some("host") => host_agent::run(),
        Some("agent") => run_agent(init, &line),
        Some(role) => Err(GuestError::Role(role.to_string())),
    });
    if let Err(error) = end {
        // Port and console are device nodes, which a failure this early may not have.
        let _ = boot::mount_rest();
        console::adopt();
        let report = failed(&error);
        AgentPort::open().send(&report);
    }
    power::off();
}

/// Mounts, loads, runs the command and reports how it ended. An error has not been reported yet.
fn run_guest(init: u64, line: &Cmdline) -> Result<(), GuestError> {
    boot::mount_rest()?;
    console::adopt_early();
    let mut port = AgentPort::open();
    let code = serve(init, line, &mut port)?;
    port.send(&Report::Exit { code });
    Ok(())
}

/// Mounts, loads, and serves the host until it ends the machine. An error has not been reported yet.
fn run_agent(init: u64, line: &Cmdline) -> Result<(), GuestError> {
    boot::mount_rest()?;
    console::adopt_early();
    let mut port = AgentPort::open();
    let token = line
        .value(cmdline::TOKEN)
        .and_then(Token::parse)
        .ok_or(GuestError::Token)?;
    boot::load_modules()?;
    console::adopt();
    let modules = now();
    power::watch_button(power::TO_COMMANDS, power::off);
    let ready = now();
    let timings = Timings { init, modules, ready };
    console::ready(&timings);
    port.send(&Report::Ready(timings));
    let start = agent::Start {
        token,
        timings: sandbox::Timings {
            kernel: kernel_start(),
            init,
            modules,
            ready,
        },
    };
    if agent::run(&start)? == agent::End::Restart {
        power::restart();
    }
    Ok(())
}

/// When the kernel started its clock, in nanoseconds since 1970.
fn kernel_start() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec) - i128::from(now()) * 1000;
    u64::try_from(nanos).unwrap_or(0)
}

/// Answers with the command's exit code.
fn serve(init: u64, line: &Cmdline, port: &mut AgentPort) -> Result<u8, GuestError> {
    boot::load_modules()?;
    console::adopt();
    let modules = now();
    let work = Work::of(line)?;
    power::watch_button(work.signals_to_end(), || {});
    let ready = now();
    let timings = Timings { init, modules, ready };
    console::ready(&timings);
    port.send(&Report::Ready(timings));
    work.run()
}

/// The report of a failure, which goes to the console as well.
fn failed(error: &GuestError) -> Report {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    console::say(&reason);
    Report::Failed { reason }
}

/// Microseconds since the guest's kernel started its clock.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}
