//! What is kept of containers between commands: a folder for each below a common root, held by one command at a time
//! (flock(2)).
//!
//! | File | Content |
//! |---|---|
//! | `config.json` | the bundle's configuration as it was when the container was created |
//! | `state.json` | the [`Record`], replaced as a whole |
//! | `start` | a socket that the first process waits at; there until the container is started |
//!
//! A process is known by its id together with the time of its start, since ids are used again.
use super::{Error, Result, spec::Spec};
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat},
    io::Errno,
    process::Pid,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The frozen configuration.
pub(super) const CONFIG: &str = "config.json";
/// The socket that holds a created container.
pub(super) const START: &str = "start";
const STATE: &str = "state.json";
const NEW_STATE: &str = "state.json.new";

/// Longest name of a container.
const LONGEST_ID: usize = 255;

/// Where a container is in its life (runtime.md § State).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made; its process has not started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    /// As the specification writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A process that cannot be taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// Clock ticks from the boot of the machine to its start.
    pub start_time: u64,
}

impl ProcessId {
    /// Of a process that is there.
    pub(super) fn of(pid: Pid) -> Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        let (_, start_time) = look_at(pid).ok_or_else(|| Error::step(format!("read /proc/{pid}/stat"))(Errno::SRCH))?;
        Ok(Self { pid, start_time })
    }

    /// It and those that come of it, as far as their parents are alive.
    pub(super) fn descendants(self) -> Result<Vec<i32>> {
        let entries = fs::read_dir("/proc").map_err(Error::step("list /proc"))?;
        let all = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let parents: BTreeMap<i32, i32> = all.filter_map(|pid| Some((pid, parent(pid)?))).collect();
        let comes_of = |mut pid: i32| {
            // No line of ancestors is longer than there are processes.
            for _ in 0..=parents.len() {
                match parents.get(&pid) {
                    _ if pid == self.pid => return true,
                    Some(above) => pid = *above,
                    None => return false,
                }
            }
            false
        };
        Ok(parents.keys().copied().filter(|pid| comes_of(*pid)).collect())
    }

    /// It has not ended. One that nobody has waited for yet has.
    pub fn is_alive(self) -> bool {
        look_at(self.pid)
            .is_some_and(|(state, start_time)| start_time == self.start_time && !matches!(state, 'Z' | 'X'))
    }
}

/// Parent of a process.
fn parent(pid: i32) -> Option<i32> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    line.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// State and start time of a process (proc_pid_stat(5)).
fn look_at(pid: i32) -> Option<(char, u64)> {
    let mut bytes = [0; 1024];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut bytes).ok()?;
    let line = String::from_utf8_lossy(bytes.get(..length)?);
    // The name, which is the process's own choice, ends with the last parenthesis.
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    // The name was field 2, the state 3, the start time is field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// What is known of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the specification that its configuration names.
    pub oci_version: String,
    /// Its name.
    pub id: String,
    /// Its first process, once there is one.
    #[serde(flatten)]
    pub process: Option<ProcessId>,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// When it was made, as RFC 3339 writes it.
    pub created: String,
    /// Who made it.
    pub owner: u32,
    /// Its cgroup's folder, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// It is not made yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub creating: bool,
    /// Its configuration's.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Record {
    /// The state as hooks and the command `state` tell it (runtime.md § State).
    pub fn to_oci(&self, status: Status) -> serde_json::Value {
        let pid = match status {
            Status::Stopped => 0,
            _ => self.process.map_or(0, |process| process.pid),
        };
        serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
    }
}

/// All containers of a root.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Those below a folder, which is made when the first container is.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes the folder of a container that does not exist yet, and holds it.
    pub(super) fn create(&self, id: &str) -> Result<Folder> {
        check_id(id)?;
        let path = self.root.join(id);
        let mut made = fs::DirBuilder::new().mode(0o711).create(&path);
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        {
            let wish = format!("make the folder {}", self.root.display());
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&self.root)
                .map_err(Error::step(wish))?;
            made = fs::DirBuilder::new().mode(0o711).create(&path);
        }
        match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::state(id, "already exists; delete it or choose another name"));
            }
            result => result.map_err(Error::step(format!("make the folder {}", path.display())))?,
        }
        Folder::open(path, id)
    }

    /// Holds a container that exists.
    pub(super) fn open(&self, id: &str) -> Result<(Folder, Record)> {
        check_id(id)?;
        let folder = Folder::open(self.root.join(id), id)?;
        let record = folder.record()?;
        Ok((folder, record))
    }

    /// Holds what is there under a name, whether a container was ever made of it or not.
    pub(super) fn hold(&self, id: &str) -> Result<Option<Folder>> {
        check_id(id)?;
        match Folder::open(self.root.join(id), id) {
            Err(Error::State { .. }) => Ok(None),
            result => result.map(Some),
        }
    }

    /// What is known of a container, without holding it.
    pub(super) fn look(&self, id: &str) -> Result<(Record, bool)> {
        check_id(id)?;
        let path = self.root.join(id);
        let bytes = fs::read(path.join(STATE)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::state(id, "does not exist"),
            _ => Error::step(format!("read {}", path.join(STATE).display()))(error),
        })?;
        Ok((parse(id, &bytes)?, path.join(START).exists()))
    }

    /// Names of all containers, in order.
    pub(super) fn ids(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::step(format!("list {}", self.root.display())))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ids: Vec<_> = names.filter(|name| check_id(name).is_ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Names are parts of paths.
fn check_id(id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > LONGEST_ID || matches!(id, "." | "..") || !id.bytes().all(allowed) {
        return Err(Error::state(
            format!("{id:?}"),
            format!("a name has 1 to {LONGEST_ID} letters, digits and _ + - ."),
        ));
    }
    Ok(())
}

/// The folder of a container, held until this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    id: String,
    path: PathBuf,
    dir: File,
}

impl Folder {
    fn open(path: PathBuf, id: &str) -> Result<Self> {
        let dir = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::state(id, "does not exist"));
            }
            result => result.map_err(Error::step(format!("open {}", path.display())))?,
        };
        rustix::io::retry_on_intr(|| flock(&dir, FlockOperation::LockExclusive))
            .map_err(Error::step(format!("lock {}", path.display())))?;
        Ok(Self {
            id: id.to_owned(),
            path,
            dir,
        })
    }

    fn step<E: Into<std::io::Error>>(&self, verb: &str, name: &str) -> impl FnOnce(E) -> Error {
        Error::step(format!("{verb} {}", self.path.join(name).display()))
    }

    /// Writes a new file.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(self.step("make", name))?;
        File::from(file).write_all(content).map_err(self.step("write", name))
    }

    /// Reads a file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file =
            openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
                Errno::NOENT => Error::state(&self.id, "does not exist"),
                _ => self.step("open", name)(error),
            })?;
        let mut bytes = Vec::new();
        File::from(file)
            .read_to_end(&mut bytes)
            .map_err(self.step("read", name))?;
        Ok(bytes)
    }

    /// The configuration that the container was created with.
    pub(super) fn config(&self) -> Result<Spec> {
        let bytes = self.read(CONFIG)?;
        serde_json::from_slice(&bytes).map_err(self.step("understand", CONFIG))
    }

    fn record(&self) -> Result<Record> {
        parse(&self.id, &self.read(STATE)?)
    }

    /// Replaces what is known.
    pub(super) fn save(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(self.step("write down", STATE))?;
        self.write(NEW_STATE, &bytes)?;
        renameat(&self.dir, NEW_STATE, &self.dir, STATE).map_err(self.step("replace", STATE))
    }

    /// A path to a file by way of the open folder: sockets take short paths only.
    pub(super) fn short_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// The container was not started yet.
    pub(super) fn waits_for_start(&self) -> bool {
        rustix::fs::statat(&self.dir, START, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Forgets a file.
    pub(super) fn remove_file(&self, name: &str) -> Result<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.step("remove", name)(error)),
        }
    }

    /// Forgets the container.
    pub(super) fn remove(self) -> Result<()> {
        for name in [START, CONFIG, STATE, NEW_STATE] {
            self.remove_file(name)?;
        }
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&self.path),
            result => result,
        }
        .map_err(self.step("remove", ""))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A container's first process has a copy of the descriptor, which would hold the lock on.
        let _ = flock(&self.dir, FlockOperation::Unlock);
    }
}

fn parse(id: &str, bytes: &[u8]) -> Result<Record> {
    serde_json::from_slice(bytes).map_err(Error::step(format!("understand state.json of container {id}")))
}

/// Name of a user, or the number.
pub fn user_name(uid: u32) -> String {
    let name = fs::read_to_string("/etc/passwd").ok().and_then(|passwd| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Now, as RFC 3339 writes it, in UTC.
pub fn now() -> String {
    rfc3339(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Years that begin in March have their leap day last; 719468 days lie between the year 0 and 1970.
    let day = days + 719_468;
    let era_day = day % 146_097;
    let year_of_era = (era_day - era_day / 1460 + era_day / 36_524 - era_day / 146_096) / 365;
    let day_of_year = era_day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + day / 146_097 * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let nanoseconds = since_1970.subsec_nanos();
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// An absolute path, from where this process is.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(Error::step(format!("find {}", path.display())))
}

#[cfg(test)]
mod tests;
