//! Stopping, continuing and ending all of a cgroup at once.
use super::Cgroup;
use crate::container::{Error, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use std::{
    fs::File,
    io::{self, Read, Seek},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a cgroup may take to freeze: its processes have to come out of the kernel.
const FREEZING: Duration = Duration::from_secs(10);

/// How long a round of signals is waited for where the kernel cannot kill a cgroup itself.
const ROUND: Duration = Duration::from_millis(20);

impl Cgroup {
    /// Stops all processes in it and waits until they stand still. If they do not within ten seconds, they run on.
    pub fn freeze(&self) -> Result<()> {
        let wish = || format!("freeze {}", self.path().display());
        self.write("cgroup.freeze", "1").map_err(Error::step(wish()))?;
        if self.wait_for("frozen", 1, FREEZING).map_err(Error::step(wish()))? {
            return Ok(());
        }
        self.thaw()?;
        Err(Error::step(wish())(Errno::TIMEDOUT))
    }

    /// Lets them run again.
    pub fn thaw(&self) -> Result<()> {
        match self.write("cgroup.freeze", "0") {
            // A kernel that cannot freeze has nothing to thaw.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            end => end.map_err(Error::step(format!("thaw {}", self.path().display()))),
        }
    }

    /// Whether it was frozen. It may take a moment until all stand still.
    pub fn is_frozen(&self) -> bool {
        self.read_first("cgroup.freeze").as_deref() == Some("1")
    }

    /// Whether a process is in it or below it.
    pub fn is_populated(&self) -> bool {
        self.read_key("cgroup.events", "populated") == Some(1)
    }

    /// Kills all processes in it and below it, frozen ones too. They are gone when [`Self::wait_until_empty`] says so.
    pub fn kill(&self) -> Result<()> {
        let wish = || format!("kill all processes of {}", self.path().display());
        match self.write("cgroup.kill", "1") {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::step(wish())(error)),
        }
        if !self.exists() {
            return Ok(());
        }
        // Linux before 5.14. New processes may come up between two looks, so nothing may run in between.
        let _ = self.freeze();
        let end = self.signal_until_empty();
        self.thaw()?;
        end
    }

    pub(super) fn signal_until_empty(&self) -> Result<()> {
        loop {
            let processes = self.processes()?;
            let mut hit = false;
            for process in processes.into_iter().filter_map(Pid::from_raw) {
                hit |= kill_process(process, Signal::KILL).is_ok();
            }
            if !hit {
                return Ok(());
            }
            // A kernel that freezes also kills what is frozen.
            sleep(ROUND);
        }
    }

    /// Waits until no process is in it; false if some are left after `limit`.
    pub fn wait_until_empty(&self, limit: Duration) -> Result<bool> {
        match self.wait_for("populated", 0, limit) {
            Err(error) if super::gone(&error) => Ok(true),
            end => end.map_err(Error::step(format!("wait for the end of {}", self.path().display()))),
        }
    }

    /// Waits for a value in cgroup.events; the kernel says when the file changes.
    fn wait_for(&self, key: &str, value: u64, limit: Duration) -> io::Result<bool> {
        let mut events = File::open(self.path().join("cgroup.events"))?;
        let end = Instant::now() + limit;
        let wanted = format!("{key} {value}");
        loop {
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            if text.lines().any(|line| line == wanted) {
                return Ok(true);
            }
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                return Ok(false);
            };
            // A change can be missed by a kernel that reports it only once, so it is looked at now and then.
            let rest = Timespec::try_from(rest.min(Duration::from_millis(200))).map_err(|_| Errno::INVAL)?;
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&rest)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
