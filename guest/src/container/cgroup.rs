//! A container's cgroup (v2): made before its process, joined by it, limited, watched, emptied, removed.
//!
//! Everything here is files of the cgroup file system, but for the filter of device nodes, which is a program in the
//! kernel. Nothing is kept in memory: whoever knows the path can do everything, whatever process made the cgroup.
//! [`plan`] says what will be written; doing it is apart.
pub mod devices;
mod freezer;
mod hierarchy;
pub mod oom;
mod place;
pub mod plan;
pub mod stats;
mod sys;
#[cfg(test)]
mod tests;

pub use hierarchy::Hierarchy;
pub use place::{Placed, place};

use super::{Error, Result, spec::Resources};
use plan::{Absent, Setting};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

/// Controllers that limits need. Others stay as they are.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "hugetlb", "pids", "rdma"];

/// How often the removal of a cgroup is tried: the kernel takes a moment to forget processes that have ended.
const REMOVALS: u32 = 12;

/// How deep cgroups in a cgroup are followed; a container may have made them.
const DEPTH: u32 = 64;

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup and those above it, and passes down the controllers that there are. One that exists is taken if
    /// nothing runs in it.
    pub fn create(hierarchy: &Hierarchy, path: &Path) -> Result<Self> {
        let mount = hierarchy
            .mount()
            .ok_or_else(|| hierarchy::refusal("linux.cgroupsPath"))?;
        let below = path.strip_prefix(mount).map_err(|_| {
            Error::spec(
                "linux.cgroupsPath",
                format!("{} is not below {}", path.display(), mount.display()),
            )
        })?;
        let mut folder = mount.to_path_buf();
        for name in below.components() {
            pass_down(&folder);
            folder.push(name);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                end => end.map_err(Error::step(format!("make the cgroup {}", folder.display())))?,
            }
        }
        let cgroup = Self { path: folder };
        if !cgroup.processes()?.is_empty() {
            let problem = format!(
                "processes run in {} already: choose another path",
                cgroup.path.display()
            );
            return Err(Error::spec("linux.cgroupsPath", problem));
        }
        // What a container that was killed while frozen has left behind.
        cgroup.thaw()?;
        Ok(cgroup)
    }

    /// One that exists, as noted when it was made.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path.join("cgroup.procs").exists()
    }

    /// Its folder, for clone3 with CLONE_INTO_CGROUP: the new process starts in it.
    pub fn folder(&self) -> Result<OwnedFd> {
        open(
            &self.path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::step(format!("open the cgroup {}", self.path.display())))
    }

    /// Moves a process into it; 0 is the caller.
    pub fn join(&self, process: i32) -> Result<()> {
        let wish = || format!("move process {process} into the cgroup {}", self.path.display());
        // EINVAL tells that the process is not complete yet.
        for _ in 0..5 {
            match self.write("cgroup.procs", &process.to_string()) {
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    sleep(Duration::from_millis(20));
                }
                end => return end.map_err(Error::step(wish())),
            }
        }
        Err(Error::step(wish())(Errno::INVAL))
    }

    /// Sets limits; those that are not named stay. Nothing is written if one of them makes no sense or has no file.
    pub fn apply(&self, resources: &Resources) -> Result<()> {
        let resources = self.completed(resources);
        let settings = plan::plan(&resources)?;
        self.check_memory(&resources)?;
        let mut writes = Vec::new();
        for setting in &settings {
            writes.extend(self.choose(setting)?.map(|(file, value)| (setting, file, value)));
        }
        for (setting, file, value) in writes {
            self.write(file, value).map_err(Error::step(format!(
                "set {}: write {value:?} to {}",
                setting.key,
                self.path.join(file).display()
            )))?;
        }
        Ok(())
    }

    /// Limits that are halves of one file get the other half from there.
    fn completed(&self, resources: &Resources) -> Resources {
        let mut resources = resources.clone();
        if let Some(cpu) = &mut resources.cpu
            && cpu.quota.is_none()
            && cpu.period.is_some()
        {
            cpu.quota = self.read_first("cpu.max").and_then(|word| word.parse().ok());
        }
        if let Some(memory) = &mut resources.memory
            && memory.limit.is_none()
            && memory.swap.is_some()
        {
            let limit = self.read_first("memory.max");
            memory.limit = limit.map(|word| word.parse().unwrap_or(-1));
        }
        resources
    }

    /// With `checkBeforeUpdate` a limit below what is in use is refused, where it would kill.
    fn check_memory(&self, resources: &Resources) -> Result<()> {
        let Some(memory) = resources
            .memory
            .as_ref()
            .filter(|it| it.check_before_update == Some(true))
        else {
            return Ok(());
        };
        let used = self
            .read_first("memory.current")
            .and_then(|word| word.parse::<i64>().ok());
        match (memory.limit, used) {
            (Some(limit @ 1..), Some(used)) if limit < used => {
                let problem = format!("{limit} is below the {used} bytes in use, and checkBeforeUpdate is set");
                Err(Error::spec("linux.resources.memory.limit", problem))
            }
            _ => Ok(()),
        }
    }

    /// Which file of a setting is there, and its value.
    fn choose<'a>(&self, setting: &'a Setting) -> Result<Option<(&'a str, &'a str)>> {
        let there = setting.files.iter().find(|(file, _)| self.path.join(file).exists());
        if let Some((file, value)) = there {
            return Ok(Some((file, value)));
        }
        match setting.absent {
            Absent::Fine => Ok(None),
            Absent::Refused => Err(self.lacks(setting)),
        }
    }

    /// Why a setting has no file.
    fn lacks(&self, setting: &Setting) -> Error {
        let (file, _) = setting.files.first().cloned().unwrap_or_default();
        let controller = file.split('.').next().unwrap_or_default();
        let place = self.path.display();
        let has = |folder: &Path, file: &str| read_words(&folder.join(file)).iter().any(|it| it == controller);
        let above = self.path.parent().unwrap_or(&self.path);
        let problem = if has(&self.path, "cgroup.controllers") {
            format!("{place} has no {file}: this kernel cannot do that, leave it out")
        } else if hierarchy::is_legacy(controller) {
            format!(
                "the controller {controller} of this host belongs to cgroup v1, and limits need v2: boot with \
                 systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all, run the container in a VM, or leave it out"
            )
        } else if has(above, "cgroup.controllers") {
            format!(
                "the controller {controller} is not passed down to {place}: processes run in a cgroup above it, or it \
                 is not delegated; choose another linux.cgroupsPath or leave it out"
            )
        } else {
            format!(
                "the controller {controller} is not available in {}: leave it out",
                above.display()
            )
        };
        Error::spec(setting.key.clone(), problem)
    }

    /// The processes in it, those in cgroups below it included, as the caller's pid namespace sees them.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        let wish = || format!("list the processes of {}", self.path.display());
        self.each(&mut |folder| {
            let text = match fs::read_to_string(folder.join("cgroup.procs")) {
                // It went away meanwhile, or has threads only.
                Err(error) if gone(&error) || error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                    return Ok(());
                }
                text => text?,
            };
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            Ok(())
        })
        .map_err(Error::step(wish()))?;
        Ok(found)
    }

    /// Removes it and what is below it. Nothing runs in it any more; one that is gone is fine.
    pub fn delete(&self) -> Result<()> {
        let wish = || format!("remove the cgroup {}", self.path.display());
        self.each(&mut remove).map_err(Error::step(wish()))
    }

    /// Does something with each cgroup of the tree, the lowest first.
    fn each(&self, work: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
        walk(&self.path, DEPTH, work)
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(self.path.join(file))?
            .write_all(value.as_bytes())
    }

    /// The first word of a file.
    fn read_first(&self, file: &str) -> Option<String> {
        read_words(&self.path.join(file)).into_iter().next()
    }

    /// The number behind a key of a file that has one per line; nothing if there is none.
    fn read_key(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.find(|(it, _)| *it == key)?.1.trim().parse().ok()
    }
}

/// Lets the cgroups below `folder` have its controllers. What cannot be passed down (processes run here, the folder is
/// somebody else's) matters only if a limit needs it, and is said then.
fn pass_down(folder: &Path) {
    let has = read_words(&folder.join("cgroup.controllers"));
    let passed = read_words(&folder.join("cgroup.subtree_control"));
    let group = Cgroup::at(folder);
    for controller in CONTROLLERS {
        if has.iter().any(|it| it == controller) && !passed.iter().any(|it| it == controller) {
            let _ = group.write("cgroup.subtree_control", &format!("+{controller}"));
        }
    }
}

fn walk(folder: &Path, depth: u32, work: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if gone(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = match entry {
            Err(error) if gone(&error) => break,
            entry => entry?,
        };
        if entry.file_type()?.is_dir() {
            let below = depth.checked_sub(1).ok_or(Errno::LOOP)?;
            walk(&entry.path(), below, work)?;
        }
    }
    work(folder)
}

fn remove(folder: &Path) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    for _ in 0..REMOVALS {
        match fs::remove_dir(folder) {
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                sleep(pause);
                pause *= 2;
            }
            end => return end,
        }
    }
    fs::remove_dir(folder)
}

/// Whether a cgroup is not there any more.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// The words of a file; none if it cannot be read.
fn read_words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
