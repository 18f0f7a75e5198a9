//! What each verb does with its arguments; the work itself is the library's.
mod process;
mod report;
mod template;

use crate::{
    arguments::{Arguments, Cgroups, Command, Create, Update},
    log::Log,
};
use coracle_guest::container::{
    Error, Result,
    create::{self, Wishes},
    exec, features, lifecycle,
    run::{self, Manner},
    signals,
    spec::{BlockIo, Cpu, Memory, Pids, Resources},
    state::Store,
};
use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

/// Runs a command; the exit code.
pub(crate) fn run(arguments: Arguments, log: &Log) -> Result<u8> {
    refuse(&arguments)?;
    let cgroups = arguments.cgroup_manager;
    let store = Store::new(arguments.root.clone().unwrap_or_else(default_root));
    let warn = |message: &str| log.warn(message);
    match arguments.command {
        Command::Create(wish) => create::create(&store, &wish.id.clone(), &wishes(wish, cgroups), &warn)?,
        Command::Start(name) => lifecycle::start(&store, &name.id, &warn)?,
        Command::Run(wish) => {
            let manner = Manner {
                detach: wish.detach,
                keep: wish.keep,
                no_subreaper: wish.no_subreaper,
            };
            return run::run(
                &store,
                &wish.create.id.clone(),
                &wishes(wish.create, cgroups),
                manner,
                &warn,
            );
        }
        Command::Exec(wish) => {
            let id = wish.id.clone();
            return exec::exec(&store, &id, process::wishes(&store, wish)?, &warn);
        }
        Command::State(name) => report::state(&store, &name.id)?,
        Command::Kill(kill) => lifecycle::kill(&store, &kill.id, signals::parse(&kill.signal)?, kill.all)?,
        Command::Delete(delete) => lifecycle::delete(&store, &delete.id, delete.force, &warn)?,
        Command::List(wish) => report::list(&store, &wish)?,
        Command::Ps(wish) => report::processes(&store, &wish)?,
        Command::Pause(name) => lifecycle::pause(&store, &name.id)?,
        Command::Resume(name) => lifecycle::resume(&store, &name.id)?,
        Command::Update(wish) => lifecycle::update(&store, &wish.id.clone(), &resources(wish)?)?,
        Command::Events(wish) => report::events(&store, &wish)?,
        Command::Features => report::print(&format!("{:#}\n", features::features()))?,
        Command::Spec(wish) => template::write(&wish)?,
    }
    Ok(0)
}

/// What this runtime does not have must not be taken for something that it has.
fn refuse(arguments: &Arguments) -> Result<()> {
    let refused = [
        (
            arguments.systemd_cgroup,
            "--systemd-cgroup: cgroups by systemd are not supported; leave it out",
        ),
        (
            arguments.cgroup_manager == Cgroups::Systemd,
            "--cgroup-manager=systemd: cgroups by systemd are not supported; choose cgroupfs or disabled",
        ),
        (
            arguments.criu.is_some(),
            "--criu: checkpoints are not supported; leave it out",
        ),
    ];
    match refused.into_iter().find(|(wanted, _)| *wanted) {
        Some((_, why)) => Err(Error::Refused(why.to_owned())),
        None => Ok(()),
    }
}

fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    own.map_or_else(|| PathBuf::from("/run"), PathBuf::from)
        .join("coracle-oci")
}

fn wishes(create: Create, cgroups: Cgroups) -> Wishes {
    Wishes {
        bundle: create.bundle.unwrap_or_else(|| ".".into()),
        console_socket: create.console_socket,
        pid_file: create.pid_file,
        preserve_fds: create.preserve_fds,
        listen_fds: std::env::var("LISTEN_FDS")
            .ok()
            .and_then(|count| count.parse().ok())
            .unwrap_or_default(),
        no_cgroup: cgroups == Cgroups::Disabled,
        no_pivot: create.no_pivot,
        no_new_keyring: create.no_new_keyring,
    }
}

/// Limits from a file, or from flags.
fn resources(wish: Update) -> Result<Resources> {
    if let Some(path) = wish.resources {
        let step = |verb: &str| format!("{verb} the limits in {}", path.display());
        let mut text = Vec::new();
        if path.as_os_str() == "-" {
            io::stdin()
                .lock()
                .read_to_end(&mut text)
                .map_err(Error::step(step("read")))?;
        } else {
            text = fs::read(&path).map_err(Error::step(step("read")))?;
        }
        return serde_json::from_slice(&text).map_err(Error::step(step("understand")));
    }
    let mut resources = Resources {
        cpu: Some(Cpu {
            shares: wish.cpu_share,
            quota: wish.cpu_quota,
            burst: wish.cpu_burst,
            period: wish.cpu_period,
            cpus: wish.cpuset_cpus,
            mems: wish.cpuset_mems,
            idle: wish.cpu_idle,
            ..Cpu::default()
        }),
        memory: Some(Memory {
            limit: wish.memory,
            reservation: wish.memory_reservation,
            swap: wish.memory_swap,
            ..Memory::default()
        }),
        pids: wish.pids_limit.map(|limit| Pids { limit: Some(limit) }),
        block_io: wish.blkio_weight.map(|weight| BlockIo {
            weight: Some(weight),
            ..BlockIo::default()
        }),
        ..Resources::default()
    };
    resources.cpu = resources.cpu.filter(|cpu| *cpu != Cpu::default());
    resources.memory = resources.memory.filter(|memory| *memory != Memory::default());
    if resources == Resources::default() {
        return Err(Error::Refused(
            "update: name a limit, or a file of them with --resources".to_owned(),
        ));
    }
    Ok(resources)
}
