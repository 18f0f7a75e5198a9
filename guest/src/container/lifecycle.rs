//! Starting, stopping, watching and removing containers (runtime.md § Operations): what a command does from outside. One
//! process of one thread does one operation; what lasts is in the [`Store`].
use super::{
    Error, Result,
    cgroup::Cgroup,
    channel::Channel,
    hooks,
    spec::{Hook, Resources},
    state::{Folder, ProcessId, Record, START, Status, Store},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// Who is told of what is not an error.
pub type Warn<'a> = &'a dyn Fn(&str);

/// Lets the process of a created container run. Comes back when it does, or with the reason why it does not.
pub fn start(store: &Store, id: &str, warn: Warn<'_>) -> Result<()> {
    let (folder, record) = store.open(id)?;
    match status(&record, folder.waits_for_start()) {
        Status::Created => {}
        other => {
            return Err(Error::state(
                id,
                format!("is {}; only a created one can be started", other.name()),
            ));
        }
    }
    let spec = folder.config()?;
    let wish = "reach the container's first process";
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::step(wish))?;
    let address = SocketAddrUnix::new(folder.short_path(START)).map_err(Error::step(wish))?;
    rustix::io::retry_on_intr(|| connect(&socket, &address)).map_err(Error::step(wish))?;
    folder.remove_file(START)?;
    Channel::from_fd(socket).receive()?;
    // Hooks may use the container.
    drop(folder);
    run_poststart(&record, spec.hooks.as_ref().map_or(&[], |hooks| &hooks.poststart), warn);
    Ok(())
}

/// A hook that fails here is told of, and no more (config.md § Poststart).
pub(super) fn run_poststart(record: &Record, list: &[Hook], warn: Warn<'_>) {
    if list.is_empty() {
        return;
    }
    let told = record.to_oci(Status::Running).to_string();
    for error in hooks::run_all("poststart", list, told.as_bytes()) {
        warn(&error.chain());
    }
}

/// Where a container is in its life.
pub(super) fn status(record: &Record, waits_for_start: bool) -> Status {
    match record.process {
        Some(process) if !process.is_alive() => Status::Stopped,
        _ if record.creating => Status::Creating,
        None => Status::Stopped,
        Some(_) if waits_for_start => Status::Created,
        Some(_) if record.cgroup.as_ref().is_some_and(|path| Cgroup::at(path).is_frozen()) => Status::Paused,
        Some(_) => Status::Running,
    }
}

/// What is known of a container, and where it is in its life.
pub fn look(store: &Store, id: &str) -> Result<(Record, Status)> {
    let (record, waits) = store.look(id)?;
    let status = status(&record, waits);
    Ok((record, status))
}

/// All containers, in the order of their names. Those that come or go meanwhile are left out.
pub fn list(store: &Store) -> Result<Vec<(Record, Status)>> {
    Ok(store.ids()?.iter().filter_map(|id| look(store, id).ok()).collect())
}

/// Sends a signal to a container's first process, or to all of its processes.
pub fn kill(store: &Store, id: &str, signal: Signal, all: bool) -> Result<()> {
    let (_folder, record) = store.open(id)?;
    let status = status(&record, false);
    if let Some(cgroup) = record.cgroup.as_ref().filter(|_| all) {
        return kill_all(&Cgroup::at(cgroup), signal);
    }
    let process = match (record.process, status) {
        (Some(process), Status::Running | Status::Created | Status::Paused | Status::Creating) => process,
        _ if all => return Ok(()),
        _ => {
            return Err(Error::state(
                id,
                format!("is {}; there is no process to send a signal to", status.name()),
            ));
        }
    };
    let wish = format!("send {signal:?} to process {} of container {id}", process.pid);
    send_signal(process, signal).map_err(Error::step(wish))
}

fn kill_all(cgroup: &Cgroup, signal: Signal) -> Result<()> {
    if signal == Signal::KILL {
        return cgroup.kill();
    }
    for pid in cgroup.processes()? {
        // Those that have ended meanwhile need no signal.
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
    Ok(())
}

/// Freezes all processes of a container that runs.
pub fn pause(store: &Store, id: &str) -> Result<()> {
    let (folder, record) = store.open(id)?;
    match status(&record, folder.waits_for_start()) {
        Status::Running | Status::Created => own_cgroup(&record, "frozen")?.freeze(),
        other => Err(Error::state(
            id,
            format!("is {}; only a running one can be paused", other.name()),
        )),
    }
}

/// Lets the processes of a paused container go on.
pub fn resume(store: &Store, id: &str) -> Result<()> {
    let (_folder, record) = store.open(id)?;
    match status(&record, false) {
        Status::Paused => own_cgroup(&record, "thawed")?.thaw(),
        other => Err(Error::state(
            id,
            format!("is {}; only a paused one can be resumed", other.name()),
        )),
    }
}

/// The cgroup of a container, for what cannot be done without one.
pub fn own_cgroup(record: &Record, what: &str) -> Result<Cgroup> {
    record.cgroup.as_ref().map(Cgroup::at).ok_or_else(|| {
        let problem = format!("has no cgroup, so it cannot be {what}: this machine had no cgroup v2 when it was made");
        Error::state(&record.id, problem)
    })
}

/// Changes limits of a container; those that are not named stay.
pub fn update(store: &Store, id: &str, resources: &Resources) -> Result<()> {
    let (folder, record) = store.open(id)?;
    match status(&record, folder.waits_for_start()) {
        Status::Stopped => Err(Error::state(id, "is stopped; there is nothing to limit")),
        _ => own_cgroup(&record, "limited")?.apply(resources),
    }
}

/// The processes of a container, by the numbers of the machine.
pub fn processes(store: &Store, id: &str) -> Result<Vec<i32>> {
    let (record, status) = look(store, id)?;
    if status == Status::Stopped {
        return Err(Error::state(id, "is stopped; it has no processes"));
    }
    match &record.cgroup {
        Some(cgroup) => Cgroup::at(cgroup).processes(),
        None => record.process.map_or(Ok(Vec::new()), ProcessId::descendants),
    }
}

/// By a descriptor, so that the process cannot be another by the time that the signal is sent.
pub(super) fn send_signal(process: ProcessId, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(process.pid).ok_or(Errno::SRCH)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    if !process.is_alive() {
        return Err(Errno::SRCH.into());
    }
    Ok(pidfd_send_signal(&descriptor, signal)?)
}

/// Removes a container that has stopped or was never started; by force, whatever its state, and it is no error if there
/// is none.
pub fn delete(store: &Store, id: &str, force: bool, warn: Warn<'_>) -> Result<()> {
    let (folder, record) = match store.open(id) {
        Err(Error::State { .. }) if force => return forget(store, id),
        result => result?,
    };
    let status = status(&record, folder.waits_for_start());
    match (status, record.process) {
        (Status::Stopped, _) | (_, None) => {}
        (Status::Created, Some(process)) => end(process, id)?,
        (_, Some(process)) if force => end(process, id)?,
        (other, _) => {
            let problem = format!(
                "is {}; stop it with kill first, or delete it by force (--force)",
                other.name()
            );
            return Err(Error::state(id, problem));
        }
    }
    // A configuration that cannot be read must not keep the container for ever.
    let poststop = folder
        .config()
        .ok()
        .and_then(|spec| spec.hooks)
        .map(|hooks| hooks.poststop)
        .unwrap_or_default();
    tear_down(folder, &record, &poststop, warn);
    Ok(())
}

/// Of a container whose making was cut short there is a folder at most.
fn forget(store: &Store, id: &str) -> Result<()> {
    match store.hold(id)? {
        Some(folder) => folder.remove(),
        None => Ok(()),
    }
}

fn end(process: ProcessId, id: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let wish = || format!("end process {} of container {id}", process.pid);
    match send_signal(process, Signal::KILL) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        result => result.map_err(Error::step(wish()))?,
    }
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(50);
    while process.is_alive() {
        if Instant::now() > deadline {
            return Err(Error::step(wish())(io::Error::other("it is still there after SIGKILL")));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Everything of a container but its processes.
pub(super) fn tear_down(folder: Folder, record: &Record, poststop: &[Hook], warn: Warn<'_>) {
    if let Err(error) = remove_cgroup(record) {
        warn(&error.chain());
    }
    if let Err(error) = folder.remove() {
        warn(&error.chain());
    }
    let told = record.to_oci(Status::Stopped).to_string();
    for error in hooks::run_all("poststop", poststop, told.as_bytes()) {
        warn(&error.chain());
    }
}

/// The first process has ended; others may be left where they have no PID namespace of their own.
fn remove_cgroup(record: &Record) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let Some(cgroup) = record.cgroup.as_ref().map(Cgroup::at).filter(Cgroup::exists) else {
        return Ok(());
    };
    if cgroup.is_populated() {
        cgroup.kill()?;
        cgroup.wait_until_empty(PATIENCE)?;
    }
    cgroup.delete()
}
