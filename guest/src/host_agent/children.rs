//! Starts and reaps processes. The one place in the host that waits for children: its thread owns every zombie,
//! those of orphans included.
//!
//! Lock order: `table` alone. It is held while a process is started, so that its end cannot be seen before it is known.
#![allow(
    unsafe_code,
    reason = "a session starts between fork and exec, and only waitid tells which child has ended"
)]
use super::{AgentError, step};
use coracle_protocol::agent::{Exec, Output, Window};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, WaitOptions, kill_process_group, waitpid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

#[derive(Default)]
struct Shared {
    table: Mutex<HashMap<i32, Sender<u8>>>,
    started: Condvar,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, HashMap<i32, Sender<u8>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes of the host.
pub(super) struct Children(Arc<Shared>);

/// A command that runs, leader of its own session and process group.
pub(super) struct Running {
    shared: Arc<Shared>,
    pid: Pid,
}

impl Children {
    /// No processes yet, and the thread that will reap them.
    pub(super) fn new() -> Result<Self, AgentError> {
        let shared = Arc::new(Shared::default());
        let reaper = Arc::clone(&shared);
        thread::Builder::new()
            .name("reaper".into())
            .spawn(move || reap(&reaper))
            .map_err(step("start the reaper"))?;
        Ok(Self(shared))
    }

    /// Starts a command as the leader of a session of its own. Without `stdin` it gets a pipe, or a terminal if it
    /// asks for one. The error is the answer for the client.
    pub(super) fn start(&self, exec: &Exec, stdin: Option<File>) -> Result<(Running, Streams), Output> {
        self.try_start(exec, stdin).map_err(|error| Output::Failed {
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

    fn try_start(&self, exec: &Exec, stdin: Option<File>) -> io::Result<(Running, Streams)> {
        let (program, arguments) = exec.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let cwd = exec.cwd.as_deref().unwrap_or("/");
        fs::create_dir_all(cwd)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(cwd).env_clear();
        command.envs(ENVIRONMENT.iter().copied());
        command.envs(exec.env.iter().map(|(key, value)| (key, value)));
        match exec.terminal {
            Some(window) => self.start_on_terminal(&mut command, window),
            None => self.start_on_pipes(&mut command, stdin),
        }
    }

    fn start_on_pipes(&self, command: &mut Command, stdin: Option<File>) -> io::Result<(Running, Streams)> {
        command.stdin(stdin.map_or_else(Stdio::piped, Stdio::from));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut child, running, ended) = self.spawn(command, false)?;
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

    fn start_on_terminal(&self, command: &mut Command, window: Window) -> io::Result<(Running, Streams)> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        set_size(&theirs, window)?;
        let theirs = File::from(theirs);
        command.stdin(theirs.try_clone()?);
        command.stdout(theirs.try_clone()?).stderr(theirs);
        let (_, running, ended) = self.spawn(command, true)?;
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

    fn spawn(&self, command: &mut Command, terminal: bool) -> io::Result<(Child, Running, Receiver<u8>)> {
        let lead = move || {
            rustix::process::setsid()?;
            if terminal {
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec `lead` makes two system calls and nothing else: no allocation, no lock.
        unsafe { command.pre_exec(lead) };
        let (send, ended) = channel();
        let mut table = self.0.table();
        let child = command.spawn()?;
        let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pid = Pid::from_raw(raw).ok_or(io::ErrorKind::InvalidData)?;
        table.insert(raw, send);
        drop(table);
        self.0.started.notify_all();
        let running = Running {
            shared: Arc::clone(&self.0),
            pid,
        };
        Ok((child, running, ended))
    }
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

impl Running {
    /// Sends a signal to its process group, unless it has ended.
    pub(super) fn signal(&self, signal: Signal) {
        // Under the lock the leader is at most a zombie, so the group's number belongs to nobody else.
        if self.shared.table().contains_key(&self.pid.as_raw_nonzero().get()) {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

fn reap(shared: &Shared) {
    loop {
        match next_zombie() {
            Ok(Some(pid)) => bury(shared, pid),
            // No child at all: sleep until one is started.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                let table = shared.table();
                if table.is_empty() {
                    drop(shared.started.wait(table));
                }
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Waits until a child has ended and leaves it as it is.
fn next_zombie() -> io::Result<Option<Pid>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes one siginfo_t to `info`, which lives until the call returns.
    let answer = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes zero, as they were before the call, is a valid siginfo_t.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the member of the union that si_pid reads.
    let pid = unsafe { info.si_pid() };
    Ok(Pid::from_raw(pid))
}

fn bury(shared: &Shared, pid: Pid) {
    let mut table = shared.table();
    let known = table.remove(&pid.as_raw_nonzero().get());
    if known.is_some() {
        // What a command leaves behind in its group ends with it.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    // No answer: `spawn` reaped a child that could not execute its program.
    let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::empty()) else {
        return;
    };
    if let Some(ended) = known {
        let code = status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|n| 128 + n))
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(255);
        let _ = ended.send(code);
    }
}

/// Tells a terminal how large it is.
pub(super) fn set_size(terminal: impl AsFd, window: Window) -> io::Result<()> {
    let size = Winsize {
        ws_row: window.rows,
        ws_col: window.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
