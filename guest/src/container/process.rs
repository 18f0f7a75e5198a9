//! The attributes of a container's process (config.md § process) but for its privileges: program, arguments,
//! environment, limits, and its place in the queues for CPUs and disks.
//!
//! [`Attributes::new`] checks them before anything is made. Those that need rights outside the container are set by its
//! maker, those that only the process itself can set by the process.
use super::{
    Error, Result,
    calls::{self, SchedulerAttributes},
    spec::{IoPriority, Personality, Process, Rlimit, Scheduler},
};
use rustix::{
    fs::{Access, access},
    process::{Pid, Resource, Rlimit as Limit, prlimit},
};
use std::{
    ffi::CString,
    fs,
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All of them, checked.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    args: Vec<CString>,
    env: Vec<CString>,
    path: Option<String>,
    cwd: PathBuf,
    limits: Vec<(String, Resource, Limit)>,
    oom_score_adj: Option<i32>,
    scheduler: Option<SchedulerAttributes>,
    io_priority: Option<i32>,
    initial_cpus: Option<Vec<u64>>,
    cpus: Option<Vec<u64>>,
    personality: Option<u32>,
}

impl Attributes {
    /// Checks the wishes.
    pub(super) fn new(process: &Process, personality: Option<&Personality>) -> Result<Self> {
        if process.args.is_empty() {
            return Err(Error::spec("process.args", "is empty; name a program"));
        }
        if !process.cwd.is_absolute() {
            return Err(Error::spec(
                "process.cwd",
                format!("{} is not absolute", process.cwd.display()),
            ));
        }
        if let Some(score) = process.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            return Err(Error::spec(
                "process.oomScoreAdj",
                format!("{score} is not in -1000..1000"),
            ));
        }
        let limits = process
            .rlimits
            .iter()
            .enumerate()
            .map(limit)
            .collect::<Result<Vec<_>>>()?;
        for (index, (name, ..)) in limits.iter().enumerate() {
            if limits.iter().take(index).any(|(earlier, ..)| earlier == name) {
                return Err(Error::spec(
                    format!("process.rlimits[{index}]"),
                    format!("{name} is here twice"),
                ));
            }
        }
        let affinity = process.exec_cpu_affinity.clone().unwrap_or_default();
        Ok(Self {
            args: strings("process.args", &process.args)?,
            env: strings("process.env", &process.env)?,
            path: variable(&process.env, "PATH").map(ToOwned::to_owned),
            cwd: process.cwd.clone(),
            limits,
            oom_score_adj: process.oom_score_adj,
            scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
            io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
            initial_cpus: cpu_mask("process.execCPUAffinity.initial", affinity.initial.as_deref())?,
            cpus: cpu_mask("process.execCPUAffinity.final", affinity.last.as_deref())?,
            personality: personality.map(domain).transpose()?,
        })
    }

    /// By the maker, before the process hides itself: how soon it is killed when memory runs out.
    pub(super) fn set_oom_score(&self, process: Pid) -> Result<()> {
        let Some(score) = self.oom_score_adj else { return Ok(()) };
        let path = format!("/proc/{}/oom_score_adj", process.as_raw_nonzero());
        fs::write(&path, score.to_string()).map_err(Error::step(format!("write {score} to {path}")))
    }

    /// By the maker, with its rights, on the process.
    pub(super) fn set_from_outside(&self, process: Pid) -> Result<()> {
        for (name, resource, limit) in &self.limits {
            let told = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
            prlimit(Some(process), *resource, *limit).map_err(Error::step(format!(
                "set {name} to soft {}, hard {}",
                told(limit.current),
                told(limit.maximum)
            )))?;
        }
        if let Some(scheduler) = &self.scheduler {
            calls::set_scheduler(process, scheduler)
                .map_err(Error::step(format!("set process.scheduler: {scheduler:?}")))?;
        }
        if let Some(priority) = self.io_priority {
            calls::set_io_priority(process, priority).map_err(Error::step(format!(
                "set process.ioPriority (ioprio_set {priority:#x})"
            )))?;
        }
        Ok(())
    }

    /// By a process of `exec`, before it is in the container's cgroup.
    pub(super) fn set_initial_affinity(&self) -> Result<()> {
        set_affinity("initial", self.initial_cpus.as_deref())
    }

    /// By a process of `exec`, in the container's cgroup.
    pub(super) fn set_final_affinity(&self) -> Result<()> {
        set_affinity("final", self.cpus.as_deref())
    }

    /// By the process on itself.
    pub(super) fn set_from_inside(&self) -> Result<()> {
        if let Some(personality) = self.personality {
            calls::set_personality(personality)
                .map_err(Error::step(format!("set the personality {personality:#x}")))?;
        }
        Ok(())
    }

    /// The container's user gets a home directory, unless the environment has one.
    pub(super) fn add_home(&mut self, uid: u32) {
        let has = |line: &CString| {
            line.as_bytes()
                .strip_prefix(b"HOME=")
                .is_some_and(|home| !home.is_empty())
        };
        if self.env.iter().any(has) {
            return;
        }
        self.env.retain(|line| !line.as_bytes().starts_with(b"HOME="));
        let home = fs::read("/etc/passwd")
            .ok()
            .and_then(|passwd| home_of(&passwd, uid))
            .unwrap_or_else(|| b"/".to_vec());
        // A line of passwd has no null byte in it that would still be a path.
        self.env.extend(CString::new([b"HOME=", &*home].concat()));
    }

    /// A variable that tells the process of something.
    pub(super) fn add_variable(&mut self, line: String) {
        self.env.extend(CString::new(line));
    }

    /// Makes the working directory if it is not there, as a user who may.
    pub(super) fn make_cwd(&self) -> Result<()> {
        match fs::create_dir_all(&self.cwd) {
            // What cannot be made may still be there for the container's user to enter.
            Ok(()) => Ok(()),
            Err(_) if self.cwd.exists() => Ok(()),
            Err(error) => Err(Error::step(format!(
                "make the working directory {}",
                self.cwd.display()
            ))(error)),
        }
    }

    /// Enters the working directory, which has to be in the container: a descriptor that was left open must not lead
    /// out of it.
    pub(super) fn enter_cwd(&self) -> Result<()> {
        let wish = format!("enter the working directory {}", self.cwd.display());
        std::env::set_current_dir(&self.cwd).map_err(Error::step(wish.clone()))?;
        match rustix::process::getcwd(Vec::new()) {
            Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
            Ok(_) | Err(_) => Err(Error::step(wish)(io::Error::other("it is outside of the container"))),
        }
    }

    /// Finds the program, seen from inside the container.
    pub(super) fn find_program(&self) -> Result<CString> {
        let name = self.args.first().map(CString::as_c_str).unwrap_or_default();
        let told = name.to_string_lossy();
        if name.to_bytes().contains(&b'/') {
            let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
            return runnable(&self.cwd.join(path))
                .map(|()| name.to_owned())
                .map_err(|error| not_run(&told, &error));
        }
        let mut problem = io::Error::new(ErrorKind::NotFound, "executable file not found in $PATH");
        for folder in self.path.as_deref().unwrap_or(DEFAULT_PATH).split(':') {
            let folder = if folder.is_empty() { "." } else { folder };
            let candidate = self.cwd.join(folder).join(&*told);
            match runnable(&candidate) {
                Ok(()) => {
                    return CString::new(candidate.as_os_str().as_bytes())
                        .map_err(|error| Error::spec("process.args[0]", error.to_string()));
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => problem = error,
                Err(_) => {}
            }
        }
        Err(not_run(&told, &problem))
    }

    /// Becomes the program. Returns only if that fails.
    pub(super) fn execute(&self, program: &CString) -> Error {
        not_run(
            &program.to_string_lossy(),
            &calls::execute(program, &self.args, &self.env),
        )
    }
}

fn runnable(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "is a directory: permission denied",
        ));
    }
    // For user 0 one bit for anybody is enough, as for execve(2).
    if found.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(access(path, Access::EXEC_OK)?)
}

fn not_run(program: &str, error: &io::Error) -> Error {
    Error::Inside {
        code: if error.kind() == ErrorKind::NotFound { 127 } else { 126 },
        why: format!("cannot run {program:?} in the container: {error}"),
    }
}

fn strings(key: &str, list: &[String]) -> Result<Vec<CString>> {
    let each = list.iter().enumerate();
    each.map(|(index, text)| {
        CString::new(text.as_str()).map_err(|_| Error::spec(format!("{key}[{index}]"), "has a null byte in it"))
    })
    .collect()
}

fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter()
        .rev()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The sixth field of the user's line of passwd(5).
fn home_of(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let number = std::str::from_utf8(fields.nth(2)?).ok()?;
        let home = fields.nth(2)?;
        (number.parse() == Ok(uid) && !home.is_empty()).then(|| home.to_vec())
    })
}

fn limit((index, wish): (usize, &Rlimit)) -> Result<(String, Resource, Limit)> {
    let key = format!("process.rlimits[{index}]");
    let resource = match wish.kind.as_str() {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        other => {
            return Err(Error::spec(
                key,
                format!("there is no limit {other:?}; see getrlimit(2)"),
            ));
        }
    };
    if wish.soft > wish.hard {
        return Err(Error::spec(
            key,
            format!("soft {} is more than hard {}", wish.soft, wish.hard),
        ));
    }
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    let limit = Limit {
        current: finite(wish.soft),
        maximum: finite(wish.hard),
    };
    Ok((wish.kind.clone(), resource, limit))
}

fn scheduler(wish: &Scheduler) -> Result<SchedulerAttributes> {
    let policy = match wish.policy.as_str() {
        "SCHED_OTHER" => libc::SCHED_OTHER,
        "SCHED_FIFO" => libc::SCHED_FIFO,
        "SCHED_RR" => libc::SCHED_RR,
        "SCHED_BATCH" => libc::SCHED_BATCH,
        "SCHED_IDLE" => libc::SCHED_IDLE,
        "SCHED_DEADLINE" => libc::SCHED_DEADLINE,
        other => {
            return Err(Error::spec(
                "process.scheduler.policy",
                format!("there is no policy {other:?}"),
            ));
        }
    };
    let mut flags = 0;
    for flag in &wish.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => {
                return Err(Error::spec(
                    "process.scheduler.flags",
                    format!("there is no flag {other:?}"),
                ));
            }
        };
    }
    let priority = u32::try_from(wish.priority)
        .map_err(|_| Error::spec("process.scheduler.priority", format!("{} is below 0", wish.priority)))?;
    if !(-20..=19).contains(&wish.nice) {
        return Err(Error::spec(
            "process.scheduler.nice",
            format!("{} is not in -20..19", wish.nice),
        ));
    }
    Ok(SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy: policy.cast_unsigned(),
        flags,
        nice: wish.nice,
        priority,
        runtime: wish.runtime,
        deadline: wish.deadline,
        period: wish.period,
    })
}

fn io_priority(wish: &IoPriority) -> Result<i32> {
    const CLASS_SHIFT: i32 = 13;
    let class = match wish.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            return Err(Error::spec(
                "process.ioPriority.class",
                format!("there is no class {other:?}"),
            ));
        }
    };
    if !(0..=7).contains(&wish.priority) {
        return Err(Error::spec(
            "process.ioPriority.priority",
            format!("{} is not in 0..7", wish.priority),
        ));
    }
    Ok(class << CLASS_SHIFT | wish.priority)
}

fn domain(wish: &Personality) -> Result<u32> {
    if let Some(flag) = wish.flags.first() {
        return Err(Error::spec(
            "linux.personality.flags",
            format!("no flags are defined, {flag:?} neither"),
        ));
    }
    match wish.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::spec(
            "linux.personality.domain",
            format!("{other:?} is neither LINUX nor LINUX32"),
        )),
    }
}

/// A bit for each CPU of a list like "0-3,7".
fn cpu_mask(key: &str, list: Option<&str>) -> Result<Option<Vec<u64>>> {
    // As many as Linux can be built for.
    const CPUS: usize = 8192;
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let wrong = || Error::spec(key, format!("{list:?} is not a list of CPUs like \"0-3,7\""));
    let mut mask = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= CPUS {
            return Err(wrong());
        }
        mask.resize(mask.len().max(last / 64 + 1), 0);
        for cpu in first..=last {
            if let Some(word) = mask.get_mut(cpu / 64) {
                *word |= 1 << (cpu % 64);
            }
        }
    }
    Ok(Some(mask))
}

fn set_affinity(which: &str, mask: Option<&[u64]>) -> Result<()> {
    let Some(mask) = mask else { return Ok(()) };
    calls::set_affinity(mask).map_err(Error::step(format!("set process.execCPUAffinity.{which} {mask:#x?}")))
}

#[cfg(test)]
mod tests;
