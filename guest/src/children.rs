//! Starts and reaps processes. The one place in PID 1 that waits for children: its thread owns every zombie, those of
//! orphans included, and hands the status to whoever asked for it when the process was started.
//!
//! Lock order: `table` alone. It is held while a process is started, so that its end cannot be seen before it is known.
#![allow(
    unsafe_code,
    reason = "a session starts between fork and exec, and only waitid tells which child has ended"
)]
use rustix::{
    process::{
        Gid, Pid, Resource, Rlimit, Signal, Uid, WaitOptions, ioctl_tiocsctty, kill_process, kill_process_group,
        setrlimit, setsid, waitpid,
    },
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use std::{
    collections::HashMap,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Exit code; 128 + n if signal n ended it.
    pub code: u8,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// Called with how a process ended, on the reaper's thread. Must not wait for another process.
pub type OnEnd = Box<dyn FnOnce(Ending) + Send>;

/// What becomes of the rest of its process group when a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// It goes on.
    Outlives,
    /// It is killed.
    Ends,
}

/// How a process starts and ends.
pub struct Manner {
    /// Its standard input is a terminal, which shall control its session.
    pub terminal: bool,
    /// What becomes of its process group.
    pub group: Group,
    /// Who it runs as; as PID 1 does without.
    pub credentials: Option<Credentials>,
    /// How many open files it may have; as many as PID 1 without.
    pub open_files: Option<Rlimit>,
}

impl Manner {
    /// On a terminal or not, and as PID 1.
    pub fn plain(terminal: bool, group: Group) -> Self {
        Self {
            terminal,
            group,
            credentials: None,
            open_files: None,
        }
    }

    /// Called between fork and exec: system calls, and nothing that allocates or locks.
    fn adopt(&self) -> io::Result<()> {
        setsid()?;
        if self.terminal {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if let Some(limit) = &self.open_files {
            setrlimit(Resource::Nofile, *limit)?;
        }
        if let Some(credentials) = &self.credentials {
            set_thread_groups(&credentials.groups)?;
            set_thread_gid(credentials.gid)?;
            set_thread_uid(credentials.uid)?;
        }
        Ok(())
    }
}

/// User and groups of a process.
pub struct Credentials {
    /// The user.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
    /// Its further groups.
    pub groups: Vec<Gid>,
}

struct Watched {
    on_end: OnEnd,
    group: Group,
}

#[derive(Default)]
struct Shared {
    table: Mutex<HashMap<i32, Watched>>,
    started: Condvar,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, HashMap<i32, Watched>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All processes.
pub struct Children(Arc<Shared>);

/// A process that was started, leader of its own session and process group.
pub struct Running {
    shared: Arc<Shared>,
    pid: Pid,
}

impl Children {
    /// No processes yet, and the thread that will reap them.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let reaper = Arc::clone(&shared);
        thread::Builder::new()
            .name("reaper".into())
            .stack_size(128 << 10)
            .spawn(move || reap(&reaper))?;
        Ok(Self(shared))
    }

    /// Starts a command as the leader of a session of its own.
    pub fn start(&self, command: &mut Command, manner: Manner, on_end: OnEnd) -> io::Result<(Child, Running)> {
        let group = manner.group;
        // SAFETY: between fork and exec `adopt` makes system calls and nothing else: no allocation, no lock.
        unsafe { command.pre_exec(move || manner.adopt()) };
        let mut table = self.0.table();
        let child = command.spawn()?;
        let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pid = Pid::from_raw(raw).ok_or(io::ErrorKind::InvalidData)?;
        table.insert(raw, Watched { on_end, group });
        drop(table);
        self.0.started.notify_all();
        let running = Running {
            shared: Arc::clone(&self.0),
            pid,
        };
        Ok((child, running))
    }
}

impl Running {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal to its process group, unless it has ended.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        self.send(|pid| kill_process_group(pid, signal))
    }

    /// Sends a signal to it alone, unless it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.send(|pid| kill_process(pid, signal))
    }

    fn send(&self, kill: impl FnOnce(Pid) -> rustix::io::Result<()>) -> io::Result<()> {
        // Under the lock it is at most a zombie, so its number belongs to nobody else.
        if self.shared.table().contains_key(&self.pid()) {
            kill(self.pid)?;
        }
        Ok(())
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
    if known.as_ref().is_some_and(|known| known.group == Group::Ends) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    // No answer: `start` reaped a child that could not execute its program.
    let status = waitpid(Some(pid), WaitOptions::empty());
    drop(table);
    let (Some(known), Ok(Some((_, status)))) = (known, status) else {
        return;
    };
    let signal = status.terminating_signal();
    let code = status.exit_status().or_else(|| signal.map(|n| 128 + n));
    (known.on_end)(Ending {
        code: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255),
        signal,
    });
}
