//! Starts the commands of clients, with their streams.
use coracle_guest::{
    children::{Children, Ending, Group, Manner, Running},
    terminal,
};
use coracle_protocol::agent::{Exec, Output, Window};
use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

/// Starts a command as the leader of a session of its own. Without `stdin` it gets a pipe, or a terminal if it
/// asks for one. The error is the answer for the client.
pub(super) fn start(children: &Children, exec: &Exec, stdin: Option<File>) -> Result<(Running, Streams), Output> {
    try_start(children, exec, stdin).map_err(|error| Output::Failed {
        code: if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        },
        reason: format!(
            "cannot run {:?} in the emulated host: {error}",
            exec.argv.first().map_or("", String::as_str)
        ),
    })
}

fn try_start(children: &Children, exec: &Exec, stdin: Option<File>) -> io::Result<(Running, Streams)> {
    let (program, arguments) = exec.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let cwd = exec.cwd.as_deref().unwrap_or("/");
    fs::create_dir_all(cwd)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(cwd).env_clear();
    command.envs(ENVIRONMENT.iter().copied());
    command.envs(exec.env.iter().map(|(key, value)| (key, value)));
    match exec.terminal {
        Some(window) => start_on_terminal(children, &mut command, window),
        None => start_on_pipes(children, &mut command, stdin),
    }
}

fn start_on_pipes(children: &Children, command: &mut Command, stdin: Option<File>) -> io::Result<(Running, Streams)> {
    command.stdin(stdin.map_or_else(Stdio::piped, Stdio::from));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, running, ended) = spawn(children, command, false)?;
    let stdin = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
    if let Some(pipe) = &stdin {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let streams = Streams {
        stdin,
        stdout: File::from(OwnedFd::from(stdout)),
        stderr: child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe))),
        terminal: None,
        ended,
    };
    Ok((running, streams))
}

fn start_on_terminal(children: &Children, command: &mut Command, window: Window) -> io::Result<(Running, Streams)> {
    let (ours, theirs) = terminal::open(window.rows, window.columns)?;
    let theirs = File::from(theirs);
    command.stdin(theirs.try_clone()?);
    command.stdout(theirs.try_clone()?).stderr(theirs);
    let (_, running, ended) = spawn(children, command, true)?;
    // `command` holds the other end until its owner drops it, which is before any output is waited for.
    rustix::io::ioctl_fionbio(&ours, true)?;
    let ours = File::from(ours);
    let streams = Streams {
        stdin: Some(ours.try_clone()?),
        stdout: ours.try_clone()?,
        stderr: None,
        terminal: Some(ours),
        ended,
    };
    Ok((running, streams))
}

fn spawn(children: &Children, command: &mut Command, terminal: bool) -> io::Result<(Child, Running, Receiver<u8>)> {
    let (send, ended) = channel();
    let on_end = Box::new(move |ending: Ending| {
        let _ = send.send(ending.code);
    });
    let (child, running) = children.start(command, Manner::plain(terminal, Group::Ends), on_end)?;
    Ok((child, running, ended))
}

/// The ends of a command's streams that stay here.
pub(super) struct Streams {
    /// Does not block; absent if the command reads a file.
    pub(super) stdin: Option<File>,
    pub(super) stdout: File,
    /// Absent on a terminal.
    pub(super) stderr: Option<File>,
    /// For its size.
    pub(super) terminal: Option<File>,
    /// The exit code comes here once, as a shell counts. The whole process group has been killed by then.
    pub(super) ended: Receiver<u8>,
}

/// Variables that every command gets.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "linux"),
    // For programs that behave differently here.
    ("CORACLE_EMULATED_HOST", "1"),
];

/// Tells a terminal how large it is.
pub(super) fn set_size(terminal: &File, window: Window) -> io::Result<()> {
    terminal::set_size(terminal, window.rows, window.columns)
}
