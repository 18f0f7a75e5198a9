//! The work of a guest: the command of the kernel command line, or a shell for whoever sits at the console.
use crate::{GuestError, console, power, sys};
use coracle_protocol::cmdline::{self, Cmdline};
use rustix::process::{Pid, Signal, WaitOptions, wait};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{
        ffi::OsStringExt,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

/// Where programs are looked for unless the kernel command line says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a shell would be.
const SHELL: &str = "/bin/sh";

/// What is to be done between start and power-off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A program and its arguments.
    Command(Vec<OsString>),
    /// Nothing in particular: a shell.
    Shell,
}

impl Work {
    /// What the kernel command line asks for.
    pub(crate) fn of(line: &Cmdline) -> Result<Self, GuestError> {
        match (line.value(cmdline::EXEC), line.arguments()) {
            (Some(_), [_, ..]) => Err(GuestError::TwoCommands),
            (Some(value), []) => {
                let arguments = cmdline::decode_exec(value)?;
                Ok(Self::Command(arguments.into_iter().map(OsString::from_vec).collect()))
            }
            (None, []) => Ok(Self::Shell),
            (None, arguments) => Ok(Self::Command(arguments.iter().map(OsString::from).collect())),
        }
    }

    /// How it is asked to end.
    pub(crate) fn signals_to_end(&self) -> &'static [Signal] {
        match self {
            Self::Command(_) => power::TO_COMMANDS,
            Self::Shell => power::TO_SHELLS,
        }
    }

    /// Does it; answers with its exit code, as a shell counts.
    pub(crate) fn run(&self) -> Result<u8, GuestError> {
        let (mut command, program) = match self {
            Self::Command(arguments) => {
                console::pass_output_unchanged();
                let mut arguments = arguments.iter();
                let program = arguments.next().map_or(OsStr::new(SHELL), OsString::as_os_str);
                let mut command = Command::new(program);
                command.args(arguments);
                sys::in_session_of_its_own(&mut command);
                (command, program)
            }
            Self::Shell if Path::new(SHELL).exists() => (shell(), OsStr::new(SHELL)),
            Self::Shell => {
                console::say(&format!(
                    "no command in `{}` and no {SHELL} to offer instead",
                    cmdline::EXEC
                ));
                return Ok(0);
            }
        };
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", PATH);
        }
        command.env("HOME", "/root");
        match command.spawn() {
            Ok(child) => reap_until(Pid::from_child(&child)),
            Err(error) => {
                console::say(&format!("cannot run {}: {error}", Path::new(program).display()));
                Ok(code_of_failed_start(&error))
            }
        }
    }
}

/// A shell that the terminal behind the console controls, so that Ctrl-C and job control work.
fn shell() -> Command {
    let mut command = Command::new(SHELL);
    command.arg0("-sh").current_dir("/");
    let ends = console::terminal().and_then(|input| {
        let output = input.try_clone().ok()?;
        let errors = input.try_clone().ok()?;
        Some((input, output, errors))
    });
    match ends {
        Some((input, output, errors)) => {
            command.stdin(input).stdout(output).stderr(Stdio::from(errors));
            sys::in_session_with_terminal(&mut command);
        }
        // Without one a shell still serves, only without job control.
        None => sys::in_session_of_its_own(&mut command),
    }
    command
}

/// 127 for a program that is not there, 126 for one that cannot be run: as a shell counts.
fn code_of_failed_start(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

/// Buries every child, its own and the orphans of others, until the one that matters ends.
fn reap_until(command: Pid) -> Result<u8, GuestError> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => {
                if let Some(code) = exit_code(ExitStatus::from_raw(status.as_raw())) {
                    return Ok(code);
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(GuestError::step("wait for the command")(errno)),
        }
    }
}

/// The exit code, 128 and the signal's number for a command that a signal ended, nothing if it only stopped.
fn exit_code(status: ExitStatus) -> Option<u8> {
    let signal = status.signal().map(|signal| signal + 128);
    status.code().or(signal).and_then(|code| u8::try_from(code).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(line: &str) -> Result<Work, GuestError> {
        Work::of(&Cmdline::parse(line))
    }

    fn command(arguments: &[&str]) -> Work {
        Work::Command(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn the_command_comes_from_either_place_but_not_from_both() {
        assert_eq!(work("quiet").unwrap(), Work::Shell);
        assert_eq!(
            work("coracle.exec=/bin/echo,a%20b quiet").unwrap(),
            command(&["/bin/echo", "a b"])
        );
        assert_eq!(work("nokaslr -- uname -r").unwrap(), command(&["uname", "-r"]));
        assert!(matches!(work("coracle.exec=a -- b"), Err(GuestError::TwoCommands)));
        assert!(matches!(work("coracle.exec=%"), Err(GuestError::Cmdline(_))));
    }

    #[test]
    fn a_command_that_cannot_start_has_the_code_of_a_shell() {
        assert_eq!(code_of_failed_start(&io::Error::from_raw_os_error(libc::ENOENT)), 127);
        assert_eq!(code_of_failed_start(&io::Error::from_raw_os_error(libc::EACCES)), 126);
    }

    #[test]
    fn exit_codes_are_a_shells() {
        let code = |script: &str| exit_code(Command::new("/bin/sh").args(["-c", script]).status().unwrap());
        assert_eq!(code("exit 0"), Some(0));
        assert_eq!(code("exit 255"), Some(255));
        assert_eq!(code("kill -9 $$"), Some(137));
    }
}
