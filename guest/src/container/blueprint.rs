//! A container as it will be made: its configuration, checked before anything exists. What the configuration asks for
//! and this runtime does not do is refused here, never left out in silence.
use super::{
    Error, Result, hooks,
    namespaces::Plan,
    privileges::Privileges,
    process::Attributes,
    seccomp::Filter,
    spec::{Hooks, Linux, NamespaceKind, Process, Spec},
    state::absolute,
};
use std::path::{Path, PathBuf};

/// What every step of the making reads.
#[derive(Debug)]
pub(super) struct Blueprint {
    pub(super) spec: Spec,
    pub(super) rootfs: PathBuf,
    pub(super) plan: Plan,
    pub(super) workload: Option<Workload>,
    /// Paths below `/proc/sys` and what is written to them.
    pub(super) sysctl: Vec<(PathBuf, String)>,
    /// What is not an error but should be known.
    pub(super) warnings: Vec<String>,
}

/// The process that a container is made for.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) attributes: Attributes,
    pub(super) privileges: Privileges,
    pub(super) terminal: bool,
    pub(super) size: Option<(u16, u16)>,
    pub(super) no_new_privileges: bool,
    filter: Option<Filter>,
    /// Descriptors from 3 on that it inherits.
    pub(super) preserve_fds: u32,
}

impl Workload {
    /// Checks a process, and tells what is to be warned of.
    pub(super) fn new(process: &Process, linux: &Linux) -> Result<(Self, Vec<String>)> {
        let labels = [
            (
                "process.apparmorProfile",
                "AppArmor",
                process.apparmor_profile.as_deref(),
            ),
            ("process.selinuxLabel", "SELinux", process.selinux_label.as_deref()),
        ];
        for (key, what, label) in labels {
            if let Some(label) = label.filter(|label| !label.is_empty()) {
                return Err(Error::spec(
                    key,
                    format!("{label:?}: {what} is not supported; leave it out"),
                ));
            }
        }
        let (privileges, mut warnings) = Privileges::new(process)?;
        let filter = linux.seccomp.as_ref().map(Filter::compile).transpose()?;
        if let Some(filter) = &filter {
            if filter.notifies() {
                let problem = "SCMP_ACT_NOTIFY is not supported: choose another action";
                return Err(Error::spec("linux.seccomp", problem));
            }
            let unknown = filter.unknown_calls().iter();
            warnings.extend(unknown.map(|call| format!("linux.seccomp: there is no system call {call}; left out")));
        }
        let workload = Self {
            attributes: Attributes::new(process, linux.personality.as_ref())?,
            privileges,
            terminal: process.terminal,
            size: process.console_size.map(|size| (size.height, size.width)),
            no_new_privileges: process.no_new_privileges,
            filter,
            preserve_fds: 0,
        };
        Ok((workload, warnings))
    }

    /// From here on, this process makes no other system calls than the configuration lets it.
    pub(super) fn filter_calls(&self) -> Result<()> {
        self.filter.as_ref().map_or(Ok(()), |filter| filter.load().map(drop))
    }
}

impl Blueprint {
    /// Reads the configuration of a bundle.
    pub(super) fn new(bundle: &Path, config: &[u8]) -> Result<Self> {
        let spec: Spec = serde_json::from_slice(config).map_err(Error::step(format!(
            "understand {}",
            bundle.join("config.json").display()
        )))?;
        check_version(&spec.oci_version)?;
        refuse(&spec)?;
        let linux = spec.linux.clone().unwrap_or_default();
        let plan = Plan::new(&linux)?;
        let root = spec
            .root
            .as_ref()
            .ok_or_else(|| Error::spec("root", "is not there; Linux needs it"))?;
        let rootfs = absolute(&bundle.join(&root.path))?;
        if !rootfs.is_dir() {
            return Err(Error::spec(
                "root.path",
                format!("{} is not a folder", rootfs.display()),
            ));
        }
        check_names(&spec, &plan)?;
        check_hooks(spec.hooks.as_ref())?;
        let sysctl = linux
            .sysctl
            .iter()
            .map(|(key, value)| sysctl(key, value, &plan))
            .collect::<Result<_>>()?;
        let (workload, warnings) = match &spec.process {
            Some(process) => {
                let (workload, warnings) = Workload::new(process, &linux)?;
                (Some(workload), warnings)
            }
            None => (None, Vec::new()),
        };
        Ok(Self {
            spec,
            rootfs,
            plan,
            workload,
            sysctl,
            warnings,
        })
    }

    /// The hooks; none without any.
    pub(super) fn hooks(&self) -> Hooks {
        self.spec.hooks.clone().unwrap_or_default()
    }
}

fn check_version(version: &str) -> Result<()> {
    if version.split('.').next() == Some("1") && version.split('.').count() >= 3 {
        return Ok(());
    }
    Err(Error::spec(
        "ociVersion",
        format!("{version:?} is not a version 1.x.y of the specification"),
    ))
}

fn refuse(spec: &Spec) -> Result<()> {
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    let refused = [
        ("vm", spec.vm.is_some()),
        ("linux.intelRdt", linux.intel_rdt.is_some()),
        ("linux.memoryPolicy", linux.memory_policy.is_some()),
        ("linux.netDevices", !linux.net_devices.is_empty()),
        (
            "linux.mountLabel",
            linux.mount_label.as_ref().is_some_and(|label| !label.is_empty()),
        ),
    ];
    match refused.into_iter().find(|(_, wanted)| *wanted) {
        Some((key, _)) => Err(Error::spec(key, "is not supported; leave it out")),
        None => Ok(()),
    }
}

fn check_names(spec: &Spec, plan: &Plan) -> Result<()> {
    for (key, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        if name.as_ref().is_some_and(|name| !name.is_empty()) && !plan.has(NamespaceKind::Uts) {
            return Err(Error::spec(
                key,
                "would be the host's; add a uts namespace to linux.namespaces",
            ));
        }
    }
    Ok(())
}

fn check_hooks(wanted: Option<&Hooks>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    hooks::check("prestart", &wanted.prestart)?;
    hooks::check("createRuntime", &wanted.create_runtime)?;
    hooks::check("createContainer", &wanted.create_container)?;
    hooks::check("startContainer", &wanted.start_container)?;
    hooks::check("poststart", &wanted.poststart)?;
    hooks::check("poststop", &wanted.poststop)
}

/// The file of a kernel parameter, if it belongs to a namespace of the container's.
fn sysctl(key: &str, value: &str, plan: &Plan) -> Result<(PathBuf, String)> {
    const IPC: [&str; 8] = [
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    ];
    let wrong = |problem: String| Error::spec(format!("linux.sysctl[{key:?}]"), problem);
    // As sysctl(8): the first separator is the one between names, the other one is part of names.
    let path: String = match key.find(['.', '/']) {
        Some(at) if key.get(at..).is_some_and(|rest| rest.starts_with('.')) => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    };
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(wrong("is not the name of a kernel parameter".to_owned()));
    }
    let owner = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["net", ..] => NamespaceKind::Network,
        ["fs", "mqueue", ..] => NamespaceKind::Ipc,
        ["kernel", name] if IPC.contains(name) => NamespaceKind::Ipc,
        ["kernel", "domainname" | "hostname"] => NamespaceKind::Uts,
        _ => return Err(wrong("belongs to no namespace and would change the host".to_owned())),
    };
    if !plan.has(owner) {
        return Err(wrong(format!(
            "would change the host: the container has no {owner:?} namespace of its own"
        )));
    }
    Ok((Path::new("/proc/sys").join(path), value.to_owned()))
}

#[cfg(test)]
mod tests;
