//! The making of a container, from its bundle to a first process that is ready (runtime.md § Create): the part of the
//! caller's process. What goes wrong undoes everything.
use super::{
    Error, Result,
    blueprint::Blueprint,
    calls,
    cgroup::{self, Cgroup, Hierarchy},
    channel::{Channel, Message},
    hooks,
    init::Init,
    lifecycle::{Warn, tear_down},
    rootfs::Rootfs,
    spec::{Linux, NamespaceKind},
    state::{self, CONFIG, Folder, ProcessId, Record, START, Status, Store},
    system::KernelCalls,
    tty,
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
    process::{Pid, Signal, WaitOptions, getuid, kill_process, waitpid},
};
use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
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
    /// How many of them after those are sockets that it was started for (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// It stays in the caller's cgroup; limits are refused then.
    pub no_cgroup: bool,
    /// The root is changed by chroot(2), for roots that cannot be pivoted.
    pub no_pivot: bool,
    /// It stays in the caller's session keyring.
    pub no_new_keyring: bool,
}

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
    /// Until its maker has done its part; the maker does not wait for it.
    Detached,
    /// As `Detached`, but the maker stays with it.
    Foreground,
}

/// Makes a container and leaves it waiting for [`super::lifecycle::start`].
pub fn create(store: &Store, id: &str, wishes: &Wishes, warn: Warn<'_>) -> Result<()> {
    let made = make(store, id, wishes, Hold::UntilStart, warn)?;
    made.finish(wishes, warn).map(drop)
}

/// Makes a container as far as its first process goes by itself. Nothing is left of one that fails.
pub(super) fn make(store: &Store, id: &str, wishes: &Wishes, hold: Hold, warn: Warn<'_>) -> Result<Made> {
    let bundle = state::absolute(&wishes.bundle)?;
    let path = bundle.join(CONFIG);
    let config = fs::read(&path).map_err(Error::step(format!("read {}", path.display())))?;
    let blueprint = design(&bundle, &config, wishes, warn)?;
    let wants_terminal = blueprint.workload.as_ref().is_some_and(|workload| workload.terminal);
    let socket = wishes.console_socket.as_deref();
    let (console, terminal) = console_for(wants_terminal, socket, hold == Hold::Foreground)?;
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
    let setting = Setting {
        rootfs,
        console,
        wishes,
        hold,
        config: &config,
        warn,
    };
    match bring_up(&folder, &blueprint, &mut record, setting) {
        Ok((process, channel)) => Ok(Made {
            folder,
            blueprint,
            record,
            process,
            channel,
            terminal,
        }),
        Err(error) => {
            tear_down(folder, &record, &blueprint.hooks().poststop, warn);
            Err(error)
        }
    }
}

/// What the configuration and the wishes come to together.
fn design(bundle: &Path, config: &[u8], wishes: &Wishes, warn: Warn<'_>) -> Result<Blueprint> {
    let mut blueprint = Blueprint::new(bundle, config)?;
    for warning in &blueprint.warnings {
        warn(warning);
    }
    let descriptors = wishes.preserve_fds.saturating_add(wishes.listen_fds);
    check_descriptors(descriptors)?;
    if let Some(workload) = &mut blueprint.workload {
        workload.preserve_fds = descriptors;
        if wishes.listen_fds > 0 {
            let count = format!("LISTEN_FDS={}", wishes.listen_fds);
            workload.attributes.add_variable(count);
            workload.attributes.add_variable("LISTEN_PID=1".to_owned());
        }
    }
    Ok(blueprint)
}

/// Ends a process of this one's that is not wanted any more.
pub(super) fn put_down(process: Pid) {
    let _ = kill_process(process, Signal::KILL);
    let _ = waitpid(Some(process), WaitOptions::empty());
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
    setting: Setting<'_>,
) -> Result<(Pid, Channel)> {
    folder.write(CONFIG, setting.config)?;
    let none = Linux::default();
    let linux = blueprint.spec.linux.as_ref().unwrap_or(&none);
    let hierarchy = if setting.wishes.no_cgroup {
        Hierarchy::Absent
    } else {
        Hierarchy::detect()?
    };
    let placed = cgroup::place(&hierarchy, linux, &record.id)?;
    for what in placed.left_out.iter().filter(|_| !setting.wishes.no_cgroup) {
        (setting.warn)(what);
    }
    record.cgroup = placed.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
    let gate = match setting.hold {
        Hold::UntilStart => Some(listen_for_start(folder)?),
        Hold::Detached | Hold::Foreground => None,
    };
    let (process, channel) = fork_first(blueprint, record, setting, placed.cgroup.as_ref(), gate)?;
    let ready = ProcessId::of(process).and_then(|known| {
        record.process = Some(known);
        accompany(folder, blueprint, record, &channel, process)
    });
    match ready {
        Ok(()) => Ok((process, channel)),
        Err(error) => {
            put_down(process);
            Err(error)
        }
    }
}

fn fork_first(
    blueprint: &Blueprint,
    record: &Record,
    setting: Setting<'_>,
    cgroup: Option<&Cgroup>,
    gate: Option<OwnedFd>,
) -> Result<(Pid, Channel)> {
    let place = cgroup.map(Cgroup::folder).transpose()?;
    let (channel, theirs) = Channel::pair()?;
    let plan = &blueprint.plan;
    // A process in between joins what exists; the first process comes of that one, and is born where it is.
    let flags = if plan.joins_any() { 0 } else { plan.fork_flags() };
    let forked = calls::fork(flags, place.as_ref().map(AsFd::as_fd));
    let Some(forked) = forked.map_err(Error::step("fork the container's first process"))? else {
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
    drop(theirs);
    if plan.joins_any() {
        let process = hear_of(&channel, forked)?;
        return Ok((process, channel));
    }
    Ok((forked, channel))
}

/// The process that one in between has made, which ends with that.
pub(super) fn hear_of(channel: &Channel, between: Pid) -> Result<Pid> {
    let made = channel.receive();
    waitpid(Some(between), WaitOptions::empty()).map_err(Error::step("wait for a process in between"))?;
    match made? {
        Some(Message::Made(pid)) => Pid::from_raw(pid),
        _ => None,
    }
    .ok_or_else(|| Error::step("hear of the process in the container")(Errno::PROTO))
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
        put_down(self.process);
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
