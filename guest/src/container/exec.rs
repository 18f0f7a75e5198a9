//! `exec`: a further process in a container that is there. It joins the namespaces of the first process by a descriptor
//! of that process, is born in its cgroup, and has to expect that the container's processes watch it: until it is a
//! program of the container's own it cannot be traced or looked into.
use super::{
    Error, Result,
    blueprint::Workload,
    calls,
    cgroup::Cgroup,
    channel::{Channel, Message},
    create::{check_descriptors, console_for, died, hear_of, put_down, write_pid},
    foreground::{Signals, stay},
    init::{become_root, become_workload, hide, join_keyring},
    lifecycle::{Warn, status},
    namespaces,
    spec::{Linux, Process, Spec},
    state::{ProcessId, Record, Status, Store},
    tty,
};
use rustix::{
    fs::AtFlags,
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open, setsid},
};
use std::{
    ffi::c_int,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

/// How a process is run.
#[derive(Debug, Clone, Default)]
pub struct ExecWishes {
    /// The process.
    pub process: Process,
    /// Nobody waits for it.
    pub detach: bool,
    /// In a paused container it waits with the others, instead of being refused.
    pub ignore_paused: bool,
    /// Where its terminal's master is sent.
    pub console_socket: Option<PathBuf>,
    /// Where its number is written.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on it inherits.
    pub preserve_fds: u32,
    /// Below the container's cgroup.
    pub cgroup: Option<String>,
}

/// The configuration that a container was made with.
pub fn configuration(store: &Store, id: &str) -> Result<Spec> {
    store.open(id)?.0.config()
}

/// Runs a process in a container; its exit code, or 0 if nobody waits for it.
pub fn exec(store: &Store, id: &str, mut wishes: ExecWishes, warn: Warn<'_>) -> Result<u8> {
    let (folder, record) = store.open(id)?;
    let inside = match (status(&record, folder.waits_for_start()), record.process) {
        (Status::Running | Status::Created, Some(process)) => process,
        (Status::Paused, Some(process)) if wishes.ignore_paused => process,
        (Status::Paused, _) => return Err(Error::state(id, "is paused; resume it first")),
        (other, _) => return Err(Error::state(id, format!("is {}; nothing can run in it", other.name()))),
    };
    let spec = folder.config()?;
    let linux = spec.linux.clone().unwrap_or_default();
    if wishes.process.capabilities.is_none() {
        wishes.process.capabilities = spec.process.and_then(|process| process.capabilities);
    }
    let (mut workload, warnings) = Workload::new(&wishes.process, &linux)?;
    for warning in &warnings {
        warn(warning);
    }
    check_descriptors(wishes.preserve_fds)?;
    workload.preserve_fds = wishes.preserve_fds;
    let signals = if wishes.detach { None } else { Some(Signals::hold()?) };
    let (console, terminal) = console_for(workload.terminal, wishes.console_socket.as_deref(), signals.is_some())?;
    let guest = Guest::new(&record, inside, &linux, wishes.cgroup.as_deref())?;
    let (process, channel) = guest.fork(&workload, console)?;
    if let Err(error) = settle(&workload, &wishes, process, &channel) {
        put_down(process);
        return Err(error);
    }
    drop(folder);
    match signals {
        Some(signals) => stay(process, &signals, terminal),
        None => Ok(0),
    }
}

/// What is done from outside, until the program runs.
fn settle(workload: &Workload, wishes: &ExecWishes, process: Pid, channel: &Channel) -> Result<()> {
    workload.attributes.set_oom_score(process)?;
    match channel.receive()? {
        Some(Message::Ready) => {}
        Some(_) => return Err(Error::step("understand the process in the container")(Errno::PROTO)),
        None => return Err(died(process)),
    }
    workload.attributes.set_from_outside(process)?;
    if let Some(path) = &wishes.pid_file {
        write_pid(path, process)?;
    }
    channel.send(&Message::Ready)?;
    // The end of the file comes with the start of the program.
    channel.receive().map(drop)
}

/// Where the process goes.
struct Guest<'a> {
    id: &'a str,
    first: OwnedFd,
    kinds: c_int,
    cgroup: Option<OwnedFd>,
    linux: &'a Linux,
}

impl<'a> Guest<'a> {
    fn new(record: &'a Record, inside: ProcessId, linux: &'a Linux, below: Option<&str>) -> Result<Self> {
        let wish = || format!("reach the first process of container {}", record.id);
        let pid = Pid::from_raw(inside.pid).ok_or_else(|| Error::step(wish())(Errno::SRCH))?;
        let first = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::step(wish()))?;
        let kinds = kinds_to_join(inside)?;
        // The descriptor and what was read belong to that process, if it is still there now.
        if !inside.is_alive() {
            return Err(Error::step(wish())(Errno::SRCH));
        }
        let cgroup = match (&record.cgroup, below) {
            (Some(path), Some(below)) => Some(Cgroup::at(inner(path, below)?).folder()?),
            (Some(path), None) => Some(Cgroup::at(path).folder()?),
            (None, Some(_)) => return Err(Error::state(&record.id, "has no cgroup, so there is none below it")),
            (None, None) => None,
        };
        Ok(Self {
            id: &record.id,
            first,
            kinds,
            cgroup,
            linux,
        })
    }

    fn fork(&self, workload: &Workload, console: Option<OwnedFd>) -> Result<(Pid, Channel)> {
        let (channel, theirs) = Channel::pair()?;
        workload.attributes.set_initial_affinity()?;
        // With rights outside, a process's children can be put into a PID namespace at once. The owner of a user
        // namespace has these rights inside only, and a process in between goes there first.
        let between = self.kinds & libc::CLONE_NEWUSER != 0;
        let first = self.first.as_fd();
        if !between && self.kinds & libc::CLONE_NEWPID != 0 {
            calls::join(first, libc::CLONE_NEWPID).map_err(Error::step("join the container's PID namespace"))?;
        }
        let cgroup = self.cgroup.as_ref().map(AsFd::as_fd);
        let forked = calls::fork(0, cgroup).map_err(Error::step("fork a process for the container"))?;
        let Some(forked) = forked else {
            drop(channel);
            let error = match self.go(&theirs, workload, console, between) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            // Nobody may be there to hear it.
            let _ = theirs.send(&Message::Failed(error.exit_code(), error.chain()));
            calls::exit_now(error.exit_code().into());
        };
        drop((theirs, console));
        if !between {
            return Ok((forked, channel));
        }
        let process = hear_of(&channel, forked)?;
        Ok((process, channel))
    }

    /// In the new process.
    fn go(
        &self,
        channel: &Channel,
        workload: &Workload,
        console: Option<OwnedFd>,
        between: bool,
    ) -> Result<std::convert::Infallible> {
        calls::reset_signals();
        hide()?;
        self.join(self.first.as_fd(), channel, between)?;
        setsid().map_err(Error::step("start a session"))?;
        join_keyring(self.id)?;
        let mut attributes = workload.attributes.clone();
        attributes.set_final_affinity()?;
        if let Some(socket) = console {
            let owner = (workload.privileges.uid(), workload.privileges.gid());
            tty::set_up(socket.as_fd(), workload.size, owner)?;
        }
        attributes.add_home(workload.privileges.uid());
        let program = attributes.find_program()?;
        channel.ask(&Message::Ready)?;
        attributes.set_from_inside()?;
        become_workload(workload, || Ok(()))?;
        Err(attributes.execute(&program))
    }

    fn join(&self, first: BorrowedFd<'_>, channel: &Channel, between: bool) -> Result<()> {
        let kinds = if between {
            self.kinds
        } else {
            self.kinds & !libc::CLONE_NEWPID
        };
        if kinds != 0 {
            calls::join(first, kinds).map_err(Error::step(format!(
                "join the namespaces of container {} (setns {kinds:#x})",
                self.id
            )))?;
        }
        if !between {
            return Ok(());
        }
        let forked = calls::fork_sibling(0).map_err(Error::step("fork a process in the container"))?;
        if let Some(pid) = forked {
            channel.send(&Message::Made(pid.as_raw_nonzero().get()))?;
            calls::exit_now(0);
        }
        let root_is_mapped = self
            .linux
            .uid_mappings
            .iter()
            .any(|map| map.container_id == 0 && map.size > 0);
        if root_is_mapped { become_root() } else { Ok(()) }
    }
}

/// Namespaces of a process that are not this one's.
fn kinds_to_join(process: ProcessId) -> Result<c_int> {
    let mut kinds = 0;
    for kind in namespaces::KINDS {
        let name = namespaces::file_name(kind);
        let number =
            |path: String| rustix::fs::statat(rustix::fs::CWD, path.as_str(), AtFlags::empty()).map(|file| file.st_ino);
        let own = match number(format!("/proc/self/ns/{name}")) {
            // The kernel has no such namespaces.
            Err(Errno::NOENT) => continue,
            result => result.map_err(Error::step(format!("find this process's {name} namespace")))?,
        };
        let theirs = number(format!("/proc/{}/ns/{name}", process.pid));
        if theirs.map_err(Error::step(format!("find the container's {name} namespace")))? != own {
            kinds |= namespaces::flag(kind);
        }
    }
    Ok(kinds)
}

fn inner(cgroup: &std::path::Path, below: &str) -> Result<PathBuf> {
    let below = std::path::Path::new(below.trim_start_matches('/'));
    if below
        .components()
        .any(|part| !matches!(part, std::path::Component::Normal(_)))
    {
        return Err(Error::Refused(format!(
            "--cgroup: {} leads out of the container's cgroup",
            below.display()
        )));
    }
    Ok(cgroup.join(below))
}
