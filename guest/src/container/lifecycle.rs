//! Making, starting, stopping and removing containers (runtime.md § Lifecycle): what a command does from outside. One
//! process of one thread does one operation; what lasts is in the [`Store`].
use super::{
    Error, Result,
    blueprint::Blueprint,
    calls,
    cgroup::{self, Cgroup, Hierarchy},
    channel::{Channel, Message},
    hooks,
    init::Init,
    rootfs::Rootfs,
    spec::{Linux, NamespaceKind, Resources},
    state::{self, CONFIG, Folder, ProcessId, Record, START, Status, Store},
    system::KernelCalls,
    tty,
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
    process::{Pid, PidfdFlags, Signal, WaitOptions, getuid, pidfd_open, pidfd_send_signal, waitpid},
};
use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How a container is made.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Its bundle.
    pub bundle: PathBuf,
    /// Where its terminal's master is sent.
    pub console_socket: Option<PathBuf>,
    /// Where the number of its first process is written.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on it inherits.
    pub preserve_fds: u32,
    /// The root is changed by chroot(2), for roots that cannot be pivoted.
    pub no_pivot: bool,
    /// It stays in the caller's session keyring.
    pub no_new_keyring: bool,
}

/// Who is told of what is not an error.
pub type Warn<'a> = &'a dyn Fn(&str);

/// A container that has just been made, by the process that is its parent.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) folder: Folder,
    pub(super) blueprint: Blueprint,
    pub(super) record: Record,
    pub(super) process: Pid,
    /// To its first process.
    pub(super) channel: Channel,
    /// Where the master of its terminal arrives, if nobody else wants it.
    pub(super) terminal: Option<OwnedFd>,
}

/// How its first process is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Until the command `start`.
    UntilStart,
    /// Until the maker lets it go.
    ByMaker,
}

/// Makes a container and leaves it waiting for [`start`].
pub fn create(store: &Store, id: &str, wishes: &Wishes, warn: Warn<'_>) -> Result<()> {
    let made = make(store, id, wishes, Hold::UntilStart, false, warn)?;
    made.finish(wishes, warn).map(drop)
}

/// Makes a container as far as its first process goes by itself. Nothing is left of one that fails.
pub(super) fn make(
    store: &Store,
    id: &str,
    wishes: &Wishes,
    hold: Hold,
    foreground: bool,
    warn: Warn<'_>,
) -> Result<Made> {
    let bundle = state::absolute(&wishes.bundle)?;
    let path = bundle.join(CONFIG);
    let config = fs::read(&path).map_err(Error::step(format!("read {}", path.display())))?;
    let mut blueprint = Blueprint::new(&bundle, &config)?;
    for warning in &blueprint.warnings {
        warn(warning);
    }
    check_descriptors(wishes.preserve_fds)?;
    if let Some(workload) = &mut blueprint.workload {
        workload.preserve_fds = wishes.preserve_fds;
    }
    let wants_terminal = blueprint.workload.as_ref().is_some_and(|workload| workload.terminal);
    let (console, terminal) = console_for(wants_terminal, wishes.console_socket.as_deref(), foreground)?;
    let mut rootfs = Rootfs::new(&blueprint.spec, &bundle)?.without_pivot(wishes.no_pivot);
    if blueprint.plan.has(NamespaceKind::User) {
        rootfs.open_sources(&KernelCalls)?;
    }
    let mut record = Record {
        oci_version: blueprint.spec.oci_version.clone(),
        id: id.to_owned(),
        process: None,
        bundle,
        rootfs: blueprint.rootfs.clone(),
        created: state::now(),
        owner: getuid().as_raw(),
        cgroup: None,
        creating: true,
        annotations: blueprint.spec.annotations.clone(),
    };
    let folder = store.create(id)?;
    let mut process = None;
    let setting = Setting {
        rootfs,
        console,
        wishes,
        hold,
        config: &config,
        warn,
    };
    let result = bring_up(&folder, &blueprint, &mut record, &mut process, setting);
    match (result, process) {
        (Ok(channel), Some(process)) => Ok(Made {
            folder,
            blueprint,
            record,
            process,
            channel,
            terminal,
        }),
        (Ok(_), None) => Err(Error::state(id, "has no first process")),
        (Err(error), process) => {
            if let Some(process) = process {
                let _ = rustix::process::kill_process(process, Signal::KILL);
                let _ = waitpid(Some(process), WaitOptions::empty());
            }
            tear_down(folder, &record, &blueprint.hooks().poststop, warn);
            Err(error)
        }
    }
}

fn tear_down(folder: Folder, record: &Record, poststop: &[super::spec::Hook], warn: Warn<'_>) {
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

/// What a container is made with.
struct Setting<'a> {
    rootfs: Rootfs,
    console: Option<OwnedFd>,
    wishes: &'a Wishes,
    hold: Hold,
    config: &'a [u8],
    warn: Warn<'a>,
}

fn bring_up(
    folder: &Folder,
    blueprint: &Blueprint,
    record: &mut Record,
    process: &mut Option<Pid>,
    setting: Setting<'_>,
) -> Result<Channel> {
    folder.write(CONFIG, setting.config)?;
    let none = Linux::default();
    let linux = blueprint.spec.linux.as_ref().unwrap_or(&none);
    let placed = cgroup::place(&Hierarchy::detect()?, linux, &record.id)?;
    placed.left_out.iter().for_each(|what| (setting.warn)(what));
    record.cgroup = placed.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
    let place = placed.cgroup.as_ref().map(Cgroup::folder).transpose()?;
    let gate = match setting.hold {
        Hold::UntilStart => Some(listen_for_start(folder)?),
        Hold::ByMaker => None,
    };
    let (channel, theirs) = Channel::pair()?;
    let plan = &blueprint.plan;
    let flags = if plan.joins_any() { 0 } else { plan.fork_flags() };
    let Some(forked) = calls::fork(flags, place.as_ref().map(AsFd::as_fd))
        .map_err(Error::step("fork the container's first process"))?
    else {
        drop(channel);
        let init = Init {
            blueprint,
            record,
            channel: theirs,
            gate,
            console: setting.console,
            keyring: !setting.wishes.no_new_keyring,
            rootfs: Some(setting.rootfs),
        };
        init.run();
    };
    drop((theirs, gate, setting.console, setting.rootfs));
    if plan.joins_any() {
        let made = channel.receive();
        waitpid(Some(forked), WaitOptions::empty()).map_err(Error::step("wait for a process in between"))?;
        let pid = match made? {
            Some(Message::Made(pid)) => Pid::from_raw(pid),
            _ => None,
        };
        *process = Some(pid.ok_or_else(|| Error::step("hear of the container's first process")(Errno::PROTO))?);
    } else {
        *process = Some(forked);
    }
    if let Some(process) = *process {
        record.process = Some(ProcessId::of(process)?);
        accompany(folder, blueprint, record, &channel, process)?;
    }
    Ok(channel)
}

/// Does for the first process what it asks for, until it is ready.
fn accompany(folder: &Folder, blueprint: &Blueprint, record: &Record, channel: &Channel, process: Pid) -> Result<()> {
    if let Some(workload) = &blueprint.workload {
        workload.attributes.set_oom_score(process)?;
    }
    loop {
        match channel.receive()? {
            Some(Message::Maps) => {
                blueprint.plan.write_maps(process)?;
                channel.send(&Message::Maps)?;
            }
            Some(Message::Hooks) => {
                folder.save(record)?;
                let told = record.to_oci(Status::Creating).to_string();
                let all = blueprint.hooks();
                hooks::run("prestart", &all.prestart, told.as_bytes())?;
                hooks::run("createRuntime", &all.create_runtime, told.as_bytes())?;
                channel.send(&Message::Hooks)?;
            }
            Some(Message::Ready) => return Ok(()),
            Some(_) => return Err(Error::step("understand the container's first process")(Errno::PROTO)),
            None => return Err(died(process)),
        }
    }
}

/// A process that said nothing more.
pub(super) fn died(process: Pid) -> Error {
    let how = match waitpid(Some(process), WaitOptions::NOHANG) {
        Ok(Some((_, status))) => match (status.terminating_signal(), status.exit_status()) {
            (Some(signal), _) => format!("signal {signal} ended it"),
            (None, code) => format!("it ended with {}", code.unwrap_or_default()),
        },
        _ => "it closed its channel".to_owned(),
    };
    Error::step("go on: the process in the container is gone")(io::Error::other(how))
}

impl Made {
    /// The last steps from outside; from then on the container is there for other commands.
    pub(super) fn finish(mut self, wishes: &Wishes, warn: Warn<'_>) -> Result<Self> {
        match self.settle(wishes) {
            Ok(()) => Ok(self),
            Err(error) => {
                if let Some(path) = &wishes.pid_file {
                    let _ = fs::remove_file(path);
                }
                self.abandon(warn);
                Err(error)
            }
        }
    }

    fn settle(&mut self, wishes: &Wishes) -> Result<()> {
        if let Some(workload) = &self.blueprint.workload {
            workload.attributes.set_from_outside(self.process)?;
        }
        self.record.creating = false;
        self.folder.save(&self.record)?;
        if let Some(path) = &wishes.pid_file {
            write_pid(path, self.process)?;
        }
        self.channel.send(&Message::Ready)
    }

    /// Undoes everything.
    pub(super) fn abandon(self, warn: Warn<'_>) {
        let _ = rustix::process::kill_process(self.process, Signal::KILL);
        let _ = waitpid(Some(self.process), WaitOptions::empty());
        tear_down(self.folder, &self.record, &self.blueprint.hooks().poststop, warn);
    }
}

/// Writes the number of a process where others wait for the file: whole or not at all.
pub(super) fn write_pid(path: &Path, process: Pid) -> Result<()> {
    let wish = || {
        format!(
            "write {process} to the pid file {}",
            path.display(),
            process = process.as_raw_nonzero()
        )
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let mut file = fs::File::create(&new).map_err(Error::step(wish()))?;
    write!(file, "{}", process.as_raw_nonzero()).map_err(Error::step(wish()))?;
    fs::rename(&new, path).map_err(Error::step(wish()))
}

/// The descriptors that are to be inherited have to be there.
pub(super) fn check_descriptors(count: u32) -> Result<()> {
    for fd in 3..3_u32.saturating_add(count) {
        if !i32::try_from(fd).is_ok_and(calls::is_open) {
            let wish = format!("preserve {count} descriptors (--preserve-fds): {fd} is not open");
            return Err(Error::step(wish)(Errno::BADF));
        }
    }
    Ok(())
}

/// Where the master of the terminal goes, and where it arrives if it is for this process.
pub(super) fn console_for(
    terminal: bool,
    socket: Option<&Path>,
    foreground: bool,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    match (socket, terminal) {
        (Some(_), false) => Err(Error::spec(
            "process.terminal",
            "is false, but there is a console socket (--console-socket)",
        )),
        (Some(path), true) => Ok((Some(tty::connect_to(path)?), None)),
        (None, true) if foreground => tty::pair().map(|(one, other)| (Some(one), Some(other))),
        (None, true) => {
            let problem = "is true: give a socket with --console-socket, or run it in the foreground";
            Err(Error::spec("process.terminal", problem))
        }
        (None, false) => Ok((None, None)),
    }
}

fn listen_for_start(folder: &Folder) -> Result<OwnedFd> {
    let wish = "make the socket that waits for the start";
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::step(wish))?;
    let address = SocketAddrUnix::new(folder.short_path(START)).map_err(Error::step(wish))?;
    bind(&socket, &address).map_err(Error::step(wish))?;
    listen(&socket, 1).map_err(Error::step(wish))?;
    Ok(socket)
}

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
    let outcome = Channel::from_fd(socket).receive();
    outcome?;
    run_poststart(&record, spec.hooks.as_ref().map_or(&[], |hooks| &hooks.poststart), warn);
    Ok(())
}

/// A hook that fails here is told of, and no more (config.md § Poststart).
pub(super) fn run_poststart(record: &Record, list: &[super::spec::Hook], warn: Warn<'_>) {
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
        None => record.process.map_or(Ok(Vec::new()), |process| process.descendants()),
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
