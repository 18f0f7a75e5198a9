//! A user-mode network: the program passt at the other end of a card's cable.
//!
//! Owns the process and the thread that watches it: its words go to the log, and when it ends by itself, the card has no
//! link until it runs again. It ends with this process in any case, since it lives as long as the socket to it.
use super::NetError;
use crate::config::spec::Forward;
use coracle_devices::virtio::net::{
    link::Link,
    wire::{Framing, Wire},
};
use std::{
    io::{self, BufRead, BufReader},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Who lived so long did not fail at its start.
const STARTED: Duration = Duration::from_secs(5);
/// The longest time between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps passt running until it is dropped.
pub(super) struct Passt {
    shared: Arc<Shared>,
    /// Dropped to end the pauses of the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    arguments: Vec<String>,
    wire: Arc<Wire>,
    child: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    child: Option<Child>,
    over: bool,
}

impl Passt {
    /// Starts it for the card `name`, with ports that lead to the guest.
    pub(super) fn start(
        name: &str,
        (tcp, udp): (&[Forward], &[Forward]),
        mtu: Option<u16>,
        link: &Link,
    ) -> Result<(Arc<Wire>, Self), NetError> {
        let cable = link.clone();
        let wire = Arc::new(Wire::new(Framing::Stream, Box::new(move |up| cable.set_carrier(up))));
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            arguments: arguments(tcp, udp, mtu),
            wire: wire.clone(),
            child: Mutex::default(),
        });
        let words = shared.spawn().map_err(NetError::Passt)?;
        let (stop, stopped) = channel();
        let watched = shared.clone();
        let thread = thread::Builder::new()
            .name(format!("passt {name}"))
            .spawn(move || watched.watch(words, &stopped))?;
        let passt = Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        };
        Ok((wire, passt))
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.shared.end();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the thread that watches passt panicked");
        }
    }
}

impl Shared {
    /// Starts the process and puts it at the end of the cable. Gives what it says.
    fn spawn(&self) -> io::Result<Option<ChildStderr>> {
        let mut running = self.lock();
        if running.over {
            return Ok(None);
        }
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new("passt")
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let words = child.stderr.take();
        running.child = Some(child);
        self.wire.connect(ours.into())?;
        Ok(words)
    }

    /// Follows the process, and starts it again when it ends.
    fn watch(&self, words: Option<ChildStderr>, stopped: &Receiver<()>) {
        let (mut words, mut pause) = (words, Duration::from_millis(100));
        loop {
            let started = Instant::now();
            let last = self.listen(words.take());
            let Some(ended) = self.reap() else { return };
            log::warn!(
                "{}: passt has ended ({ended}{}{last}); the network card has no link until it runs again",
                self.name,
                if last.is_empty() { "" } else { ": " }
            );
            pause = if started.elapsed() > STARTED {
                Duration::from_millis(100)
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            loop {
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                match self.spawn() {
                    Ok(new) => {
                        words = new;
                        break;
                    }
                    Err(error) => log::warn!("{}: cannot start passt again: {error}", self.name),
                }
            }
        }
    }

    /// Logs what the process says until it says no more; gives its last words.
    fn listen(&self, words: Option<ChildStderr>) -> String {
        let mut last = String::new();
        let lines = words.into_iter().flat_map(|words| BufReader::new(words).lines());
        // It speaks to the system's log as well, and complains where there is none.
        for line in lines
            .map_while(Result::ok)
            .filter(|line| !line.ends_with("bytes to syslog"))
        {
            log::info!("{}: passt: {line}", self.name);
            last = line;
        }
        last
    }

    /// How the process has ended, which then is forgotten; `None` if it was ended on purpose.
    fn reap(&self) -> Option<String> {
        // It has closed its output, so it is about to end.
        let status = (0..100).find_map(|_| {
            let ended = self.lock().child.as_mut().map(Child::try_wait)?.transpose();
            if ended.is_none() {
                thread::sleep(Duration::from_millis(10));
            }
            ended
        });
        let status = status.or_else(|| {
            let mut running = self.lock();
            let child = running.child.as_mut()?;
            Some(child.kill().and_then(|()| child.wait()))
        });
        self.lock().child = None;
        if self.lock().over {
            return None;
        }
        Some(match status {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "it was ended already".to_owned(),
        })
    }

    /// Ends the process for good.
    fn end(&self) {
        let mut running = self.lock();
        running.over = true;
        if let Some(child) = &mut running.child
            && let Err(error) = child.kill()
        {
            log::warn!("{}: cannot end passt: {error}", self.name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What passt is told.
fn arguments(tcp: &[Forward], udp: &[Forward], mtu: Option<u16>) -> Vec<String> {
    // The socket to the card is its standard input; it leaves when that is closed.
    let mut all: Vec<String> = ["--foreground", "--stderr", "--fd", "0"].map(str::to_owned).to_vec();
    if let Some(mtu) = mtu {
        all.extend(["--mtu".to_owned(), mtu.to_string()]);
    }
    if rustix::process::geteuid().is_root() {
        // It does not run as root, and looks for a user that a small system may not have.
        all.extend(["--runas", "65534:65534"].map(str::to_owned));
    }
    for (option, forwards) in [("--tcp-ports", tcp), ("--udp-ports", udp)] {
        for Forward { address, host, guest } in forwards {
            let address = address.map(|address| format!("{address}/")).unwrap_or_default();
            all.extend([option.to_owned(), format!("{address}{host}:{guest}")]);
        }
    }
    all
}

#[cfg(test)]
mod tests;
