//! What cgroups this machine has, and where a container's belongs.
use crate::container::{Error, Result};
use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// The machine's cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v2 is mounted there. Beside controllers of v1 it has few or none of its own: containers are tracked,
    /// frozen, killed and kept from devices in it, and limits are refused one by one.
    Unified(PathBuf),
    /// There is no cgroup v2: limits are refused, containers are known by their processes.
    Absent,
}

impl Hierarchy {
    /// Looks at what is mounted.
    pub fn detect() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::step("read /proc/self/mountinfo"))?;
        Ok(Self::of_mounts(&mounts))
    }

    /// From the text of mountinfo (proc_pid_mountinfo(5)). Of several the one below /sys is taken.
    pub(super) fn of_mounts(mounts: &str) -> Self {
        let unified = mounts.lines().filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let kind = after.split(' ').next()?;
            let mut fields = before.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            // A mount of a part of the tree cannot be told from the whole by its paths.
            (kind == "cgroup2" && root == "/").then(|| unescape(point))
        });
        let mut unified: Vec<PathBuf> = unified.collect();
        unified.sort_by_key(|path| !path.starts_with("/sys/fs/cgroup"));
        unified.into_iter().next().map_or(Self::Absent, Self::Unified)
    }

    /// Where cgroup v2 is mounted.
    pub fn mount(&self) -> Option<&Path> {
        match self {
            Self::Unified(mount) => Some(mount),
            Self::Absent => None,
        }
    }

    /// Where a container's cgroup goes: an absolute `linux.cgroupsPath` counts from the mount, a relative one from the
    /// folder that holds the runtime's own cgroup, and without one it is named after the container there.
    pub fn locate(&self, cgroups_path: Option<&str>, id: &str) -> Result<PathBuf> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(Error::step("read /proc/self/cgroup"))?;
        self.locate_beside(&own, cgroups_path, id)
    }

    pub(super) fn locate_beside(&self, own: &str, cgroups_path: Option<&str>, id: &str) -> Result<PathBuf> {
        let mount = self.mount().ok_or_else(|| refusal("linux.cgroupsPath"))?;
        let given = Path::new(cgroups_path.unwrap_or(id));
        let mut below = PathBuf::new();
        for part in given.components() {
            match part {
                Component::Normal(name) => below.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    let problem = format!("{} leads out of its place: leave out `..`", given.display());
                    return Err(Error::spec("linux.cgroupsPath", problem));
                }
            }
        }
        if below.as_os_str().is_empty() {
            return Err(Error::spec(
                "linux.cgroupsPath",
                "is the root of all cgroups: name one below it",
            ));
        }
        if given.is_absolute() {
            return Ok(mount.join(below));
        }
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let beside = Path::new(own).parent().unwrap_or(Path::new(""));
        if beside.components().any(|it| it == Component::ParentDir) {
            let problem = "the runtime's own cgroup is outside of what is mounted: give an absolute path";
            return Err(Error::spec("linux.cgroupsPath", problem));
        }
        Ok(mount.join(beside).join(below))
    }
}

/// That something needs cgroup v2.
pub(super) fn refusal(key: &str) -> Error {
    let problem = "needs cgroup v2, which is not mounted: mount it on /sys/fs/cgroup, run the container in a VM, or leave \
                   it out";
    Error::spec(key, problem)
}

/// Whether a controller is bound to a hierarchy of v1 (cgroups(7) § /proc/cgroups).
pub(super) fn is_legacy(controller: &str) -> bool {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let name = if controller == "io" { "blkio" } else { controller };
    table.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(name) && fields.next().is_some_and(|hierarchy| hierarchy != "0")
    })
}

/// Spaces and the like are octal in mountinfo.
fn unescape(text: &str) -> PathBuf {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    plain.replace("\\134", "\\").into()
}
