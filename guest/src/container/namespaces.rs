//! Namespaces (namespaces(7)): which are new, which are joined, and in which order.
//!
//! A process enters namespaces that exist first, with the rights that it has outside. All new ones then come of one
//! `clone3`, the user namespace being their owner; the cgroup and time namespaces are left for the new process, which
//! has to be in its cgroup and to set its clocks before.
use super::{Error, Result, calls};
use crate::container::spec::{IdMapping, Linux, NamespaceKind, TimeOffset};
use rustix::process::{Pid, geteuid};
use std::{
    collections::BTreeMap,
    ffi::c_int,
    fmt::Write as _,
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::Path,
    process::Command,
};

/// The `CLONE_NEW*` of a kind.
pub(super) fn flag(kind: NamespaceKind) -> c_int {
    match kind {
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::Mount => libc::CLONE_NEWNS,
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Time => libc::CLONE_NEWTIME,
    }
}

/// Its name in `/proc/PID/ns`.
pub(super) fn file_name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::User => "user",
        NamespaceKind::Pid => "pid",
        NamespaceKind::Mount => "mnt",
        NamespaceKind::Network => "net",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Time => "time",
    }
}

/// All kinds, the owner of the others first.
pub(super) const KINDS: [NamespaceKind; 8] = [
    NamespaceKind::User,
    NamespaceKind::Cgroup,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Network,
    NamespaceKind::Pid,
    NamespaceKind::Time,
    NamespaceKind::Mount,
];

/// A namespace to join.
#[derive(Debug)]
struct Joined {
    kind: NamespaceKind,
    path: String,
    file: File,
}

/// The namespaces of a container.
#[derive(Debug, Default)]
pub(super) struct Plan {
    new: c_int,
    joined: Vec<Joined>,
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
    offsets: BTreeMap<String, TimeOffset>,
}

impl Plan {
    /// Checks the wishes and opens what is joined.
    pub(super) fn new(linux: &Linux) -> Result<Self> {
        let mut plan = Self::default();
        for (index, namespace) in linux.namespaces.iter().enumerate() {
            let key = format!("linux.namespaces[{index}]");
            let kind = namespace.kind;
            if plan.has(kind) {
                return Err(Error::spec(key, format!("{kind:?} is here twice; leave one")));
            }
            match &namespace.path {
                Some(path) => plan.joined.push(open(&key, kind, path)?),
                None => plan.new |= flag(kind),
            }
        }
        plan.take_mappings(linux)?;
        plan.take_offsets(linux)?;
        Ok(plan)
    }

    fn take_mappings(&mut self, linux: &Linux) -> Result<()> {
        let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        if self.creates(NamespaceKind::User) {
            if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
                return Err(Error::spec(
                    "linux.uidMappings and linux.gidMappings",
                    "a new user namespace needs both",
                ));
            }
            self.uids.clone_from(&linux.uid_mappings);
            self.gids.clone_from(&linux.gid_mappings);
        } else if mapped && !self.joins(NamespaceKind::User) {
            return Err(Error::spec(
                "linux.uidMappings and linux.gidMappings",
                "ids are mapped in a user namespace only; add one to linux.namespaces",
            ));
        }
        Ok(())
    }

    fn take_offsets(&mut self, linux: &Linux) -> Result<()> {
        if linux.time_offsets.is_empty() {
            return Ok(());
        }
        if !self.creates(NamespaceKind::Time) {
            return Err(Error::spec(
                "linux.timeOffsets",
                "clocks are set in a new time namespace only",
            ));
        }
        if let Some(clock) = linux
            .time_offsets
            .keys()
            .find(|clock| !matches!(clock.as_str(), "monotonic" | "boottime"))
        {
            return Err(Error::spec(
                format!("linux.timeOffsets.{clock}"),
                "there are the clocks \"monotonic\" and \"boottime\"",
            ));
        }
        self.offsets.clone_from(&linux.time_offsets);
        Ok(())
    }

    /// The container gets a new one.
    pub(super) fn creates(&self, kind: NamespaceKind) -> bool {
        self.new & flag(kind) != 0
    }

    /// The container gets one that exists.
    pub(super) fn joins(&self, kind: NamespaceKind) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }

    /// The container has its own view, be it new or joined.
    pub(super) fn has(&self, kind: NamespaceKind) -> bool {
        self.creates(kind) || self.joins(kind)
    }

    /// A process in between has to join namespaces before the container's first process is made.
    pub(super) fn joins_any(&self) -> bool {
        !self.joined.is_empty()
    }

    /// What the first process is forked with.
    pub(super) fn fork_flags(&self) -> c_int {
        self.new & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME)
    }

    /// Joins what exists. Those that the rights outside do not open may open to the owner of the user namespace.
    pub(super) fn join(&self) -> Result<()> {
        let (user, others): (Vec<_>, Vec<_>) = self
            .joined
            .iter()
            .partition(|joined| joined.kind == NamespaceKind::User);
        let mut later = Vec::new();
        for joined in others {
            match calls::join(joined.file.as_fd(), flag(joined.kind)) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) && !user.is_empty() => later.push(joined),
                result => result.map_err(Error::step(joined.wish()))?,
            }
        }
        for joined in user.into_iter().chain(later) {
            calls::join(joined.file.as_fd(), flag(joined.kind)).map_err(Error::step(joined.wish()))?;
        }
        Ok(())
    }

    /// In the first process: the namespaces that a fork does not give.
    pub(super) fn leave_rest(&self) -> Result<()> {
        if self.creates(NamespaceKind::Cgroup) {
            calls::leave(libc::CLONE_NEWCGROUP).map_err(Error::step("make a new cgroup namespace"))?;
        }
        if self.creates(NamespaceKind::Time) {
            calls::leave(libc::CLONE_NEWTIME).map_err(Error::step("make a new time namespace"))?;
            let mut lines = String::new();
            for (clock, offset) in &self.offsets {
                // Writing to a String cannot fail.
                let _ = writeln!(lines, "{clock} {} {}", offset.secs, offset.nanosecs);
            }
            if !lines.is_empty() {
                fs::write("/proc/self/timens_offsets", &lines).map_err(Error::step(format!(
                    "set the clocks of the time namespace to {:?}",
                    lines.trim_end()
                )))?;
            }
            // The new namespace is for children; this process moves itself.
            let wish = "enter the new time namespace";
            let file = File::open("/proc/self/ns/time_for_children").map_err(Error::step(wish))?;
            calls::join(file.as_fd(), libc::CLONE_NEWTIME).map_err(Error::step(wish))?;
        }
        Ok(())
    }

    /// Whether the container's user 0 is somebody.
    pub(super) fn maps_root(&self) -> bool {
        self.uids.iter().any(|map| map.container_id == 0 && map.size > 0)
            && self.gids.iter().any(|map| map.container_id == 0 && map.size > 0)
    }

    /// From outside, gives the new user namespace of a process its ids.
    pub(super) fn write_maps(&self, process: Pid) -> Result<()> {
        let process = process.as_raw_nonzero().get();
        let privileged = geteuid().is_root();
        // Without rights outside, the kernel lets a group be mapped only by those who cannot drop groups any more.
        if !privileged && is_own(&self.gids) {
            let path = format!("/proc/{process}/setgroups");
            fs::write(&path, "deny").map_err(Error::step(format!("write \"deny\" to {path}")))?;
        }
        write_map("gid_map", "newgidmap", process, &self.gids)?;
        write_map("uid_map", "newuidmap", process, &self.uids)
    }
}

impl Joined {
    fn wish(&self) -> String {
        format!("join the {} namespace {}", file_name(self.kind), self.path)
    }
}

fn open(key: &str, kind: NamespaceKind, path: &Path) -> Result<Joined> {
    if !path.is_absolute() {
        return Err(Error::spec(
            format!("{key}.path"),
            format!("{} is not absolute", path.display()),
        ));
    }
    let wish = format!("open the {} namespace {}", file_name(kind), path.display());
    let file = File::open(path).map_err(Error::step(wish))?;
    match calls::kind_of_namespace(file.as_fd()) {
        Ok(found) if found == flag(kind) => Ok(Joined {
            kind,
            path: path.display().to_string(),
            file,
        }),
        Ok(_) => Err(Error::spec(
            format!("{key}.path"),
            format!(
                "{} is a namespace, but of another kind than {:?}",
                path.display(),
                file_name(kind)
            ),
        )),
        Err(_) => Err(Error::spec(
            format!("{key}.path"),
            format!("{} is not a namespace", path.display()),
        )),
    }
}

/// A map that the kernel takes from anybody: one id, one's own.
fn is_own(map: &[IdMapping]) -> bool {
    matches!(map, [one] if one.size == 1)
}

fn write_map(file: &str, program: &str, process: i32, map: &[IdMapping]) -> Result<()> {
    let mut lines = String::new();
    for range in map {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{} {} {}", range.container_id, range.host_id, range.size);
    }
    let path = format!("/proc/{process}/{file}");
    match fs::write(&path, &lines) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && !geteuid().is_root() => {
            map_by_program(program, process, map)
        }
        result => result.map_err(Error::step(format!("write {:?} to {path}", lines.trim_end()))),
    }
}

/// The system's own programs map what `/etc/subuid` and `/etc/subgid` allow.
fn map_by_program(program: &str, process: i32, map: &[IdMapping]) -> Result<()> {
    let numbers = map
        .iter()
        .flat_map(|range| [range.container_id, range.host_id, range.size]);
    let arguments: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let wish = format!("run {program} {process} {}", arguments.join(" "));
    let output = Command::new(program)
        .arg(process.to_string())
        .args(arguments)
        .output()
        .map_err(Error::step(wish.clone()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::step(wish)(io::Error::other(said.trim().to_owned())))
}

#[cfg(test)]
mod tests;
