//! The first process of a container, from the fork to the program that it becomes. It owns nothing but its own view and
//! speaks to its maker over a [`Channel`]; where it fails, it says which step failed and ends.
//!
//! ```text
//! maker                                          first process
//! fork ────────────────────────────────────────► (joins namespaces, forks once more: "made")
//! writes the ids of the user namespace ◄───────► "maps"
//!                                                names, kernel parameters, mounts
//! hooks prestart, createRuntime        ◄───────► "hooks"
//!                                                hooks createContainer, new root, terminal
//! limits, state, pid file              ◄───────► "ready"
//!                                                waits for start, if the container is only created
//! end of file: it runs                 ◄──────── privileges, hooks startContainer, exec
//! ```
//!
//! Privileges go after the wait and before the hooks `startContainer`, whose programs are the container's own.
use super::{
    Error, Result,
    blueprint::{Blueprint, Workload},
    calls,
    channel::{Channel, Message},
    hooks,
    rootfs::{Mounted, Rootfs},
    spec::NamespaceKind,
    state::{ProcessId, Record, Status},
    system::KernelCalls,
    tty,
};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, accept_with, socket_with},
    process::{DumpableBehavior, Gid, Uid, getpid, set_dumpable_behavior, setsid},
    system::{setdomainname, sethostname},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use std::{
    ffi::CString,
    fs,
    os::fd::{AsFd as _, OwnedFd},
};

/// What the first process is given.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) blueprint: &'a Blueprint,
    pub(super) record: &'a Record,
    pub(super) channel: Channel,
    /// Where it waits for `start`; without one it goes on at once.
    pub(super) gate: Option<OwnedFd>,
    /// Where the terminal's master goes.
    pub(super) console: Option<OwnedFd>,
    /// A new session keyring is made.
    pub(super) keyring: bool,
    /// Its root file system.
    pub(super) rootfs: Option<Rootfs>,
}

impl Init<'_> {
    /// Goes all the way. Whoever calls this is the new process.
    pub(super) fn run(mut self) -> ! {
        calls::reset_signals();
        let Err(error) = self.go();
        let code = error.exit_code();
        // Nobody may be there to hear it.
        let _ = self.channel.send(&Message::Failed(code, error.chain()));
        calls::exit_now(code.into());
    }

    fn go(&mut self) -> Result<std::convert::Infallible> {
        self.enter_namespaces()?;
        self.name_things()?;
        let mounted = self.mount()?;
        self.run_hooks(Status::Creating, |hooks| ("createContainer", hooks.create_container))?;
        let entered = mounted.enter(&KernelCalls)?;
        let Some(workload) = &self.blueprint.workload else {
            entered.seal(&KernelCalls)?;
            self.wait_for_start()?;
            return Err(Error::spec("process", "is not there, so there is nothing to start"));
        };
        let mut attributes = workload.attributes.clone();
        if let Some(socket) = self.console.take() {
            let owner = (workload.privileges.uid(), workload.privileges.gid());
            let terminal = tty::set_up(socket.as_fd(), workload.size, owner)?;
            entered.console(&KernelCalls, terminal.as_fd())?;
        }
        attributes.make_cwd()?;
        entered.seal(&KernelCalls)?;
        attributes.add_home(workload.privileges.uid());
        let program = attributes.find_program()?;
        self.wait_for_start()?;
        attributes.set_from_inside()?;
        become_workload(workload, || {
            self.run_hooks(Status::Created, |hooks| ("startContainer", hooks.start_container))
        })?;
        Err(attributes.execute(&program))
    }

    /// Everything is in its place, and the hooks that come before the change of root have run outside.
    fn mount(&mut self) -> Result<Mounted> {
        let rootfs = self.rootfs.take().ok_or_else(|| Error::spec("root", "is not there"))?;
        let mounted = rootfs.mount(&KernelCalls)?;
        let hooks = self.blueprint.hooks();
        if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
            self.channel.ask(&Message::Hooks)?;
        }
        Ok(mounted)
    }

    fn enter_namespaces(&mut self) -> Result<()> {
        let plan = &self.blueprint.plan;
        if plan.joins_any() {
            plan.join()?;
            let forked = calls::fork_sibling(plan.fork_flags());
            if let Some(pid) = forked.map_err(Error::step("fork the container's first process"))? {
                self.channel.send(&Message::Made(pid.as_raw_nonzero().get()))?;
                calls::exit_now(0);
            }
        }
        if plan.creates(NamespaceKind::User) {
            self.channel.ask(&Message::Maps)?;
            if plan.maps_root() {
                become_root()?;
            }
        }
        hide()?;
        setsid().map_err(Error::step("start a session"))?;
        if self.keyring {
            join_keyring(&self.record.id)?;
        }
        plan.leave_rest()
    }

    fn name_things(&self) -> Result<()> {
        let Blueprint { plan, spec, sysctl, .. } = self.blueprint;
        if plan.creates(NamespaceKind::Network) {
            let wish = "bring the loopback interface up";
            let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(Error::step(wish))?;
            calls::bring_up(socket.as_fd(), c"lo").map_err(Error::step(wish))?;
        }
        let set = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        if let Some(name) = set(&spec.hostname) {
            sethostname(name.as_bytes()).map_err(Error::step(format!("set the host name {name:?}")))?;
        }
        if let Some(name) = set(&spec.domainname) {
            setdomainname(name.as_bytes()).map_err(Error::step(format!("set the domain name {name:?}")))?;
        }
        for (path, value) in sysctl {
            fs::write(path, value).map_err(Error::step(format!("write {value:?} to {}", path.display())))?;
        }
        Ok(())
    }

    fn run_hooks(
        &self,
        status: Status,
        pick: impl FnOnce(super::spec::Hooks) -> (&'static str, Vec<super::spec::Hook>),
    ) -> Result<()> {
        let (key, list) = pick(self.blueprint.hooks());
        if list.is_empty() {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.process = Some(ProcessId {
            pid: getpid().as_raw_nonzero().get(),
            start_time: 0,
        });
        hooks::run(key, &list, record.to_oci(status).to_string().as_bytes())
    }

    fn wait_for_start(&mut self) -> Result<()> {
        self.channel.ask(&Message::Ready)?;
        if let Some(gate) = self.gate.take() {
            let connection = rustix::io::retry_on_intr(|| accept_with(&gate, SocketFlags::CLOEXEC))
                .map_err(Error::step("wait for the start"))?;
            self.channel = Channel::from_fd(connection);
        }
        Ok(())
    }
}

/// The container's own user and powers, and nothing of the runtime's. The filter of system calls comes as late as it
/// can: without no_new_privs, loading it takes a right that goes with the privileges.
pub(super) fn become_workload(workload: &Workload, hooks: impl FnOnce() -> Result<()>) -> Result<()> {
    if !workload.no_new_privileges {
        workload.filter_calls()?;
    }
    workload.privileges.take_on()?;
    workload.attributes.enter_cwd()?;
    hooks()?;
    calls::close_on_exec_from(3 + workload.preserve_fds)
        .map_err(Error::step("keep the runtime's own descriptors from the container"))?;
    if workload.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(Error::step("set no_new_privs"))?;
        workload.filter_calls()?;
    }
    Ok(())
}

/// Processes that share this one's view must not look into it before it is the container's own program.
pub(super) fn hide() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::step("hide the process from the container's"))
}

/// User 0 of the user namespace that this process is in.
pub(super) fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid).map_err(Error::step("become group 0 of the user namespace"))?;
    set_thread_res_uid(uid, uid, uid).map_err(Error::step("become user 0 of the user namespace"))?;
    // Where groups may not be dropped, the caller's stay.
    let _ = set_thread_groups(&[]);
    Ok(())
}

/// The session keyring of the container; a new one for its first process.
pub(super) fn join_keyring(id: &str) -> Result<()> {
    let name = CString::new(format!("_ses.{id}")).unwrap_or_default();
    match calls::join_new_keyring(&name) {
        // A kernel without keyrings has none to leave.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        result => result.map_err(Error::step(
            "make a new session keyring (--no-new-keyring keeps the caller's)",
        )),
    }
}
