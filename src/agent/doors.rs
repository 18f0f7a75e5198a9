//! The socket that the guest dials: takes connections, reads how they introduce themselves, and hands them to whoever
//! waits for them.
//!
//! On a thread of its own, which never waits for a single connection: the guest may open many and say nothing.
use super::AgentError;
use coracle_protocol::sandbox::{PORT, Preamble, Token};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, read, write},
};
use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Connections that have not introduced themselves yet; more are closed.
const MOST_STRANGERS: usize = 4096;

/// How long they have for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Called with a stream when it comes, on the doors' thread; must not block.
type OnStream = Box<dyn FnOnce(UnixStream) + Send>;

/// Whoever waits for connections.
pub(super) struct Doors {
    path: PathBuf,
    key: Token,
    wake: OwnedFd,
    expected: Mutex<HashMap<Token, OnStream>>,
    agents: Mutex<Receiver<UnixStream>>,
}

struct Stranger {
    connection: UnixStream,
    said: [u8; Preamble::LEN],
    count: usize,
    until: Instant,
}

impl Doors {
    /// Listens beside a vsock device's socket.
    pub(super) fn open(uds_path: &Path, key: Token) -> Result<Arc<Self>, AgentError> {
        let mut path = uds_path.as_os_str().to_owned();
        path.push(format!("_{PORT}"));
        let path = PathBuf::from(path);
        let fail = |source: io::Error| AgentError::Listen {
            path: path.clone(),
            source,
        };
        let listener = bind(&path).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| fail(errno.into()))?;
        let (send, agents) = sync_channel(1);
        let doors = Arc::new(Self {
            path,
            key,
            wake: wake.try_clone().map_err(AgentError::Thread)?,
            expected: Mutex::default(),
            agents: Mutex::new(agents),
        });
        // The thread must not keep the doors open by itself.
        let weak = Arc::downgrade(&doors);
        let watch = move || {
            let mut strangers = Vec::new();
            while let Ok(true) = wait(&listener, &wake, &strangers) {
                let Some(doors) = weak.upgrade() else { return };
                take_new(&listener, &mut strangers);
                doors.listen_to(&mut strangers, &send);
            }
        };
        thread::Builder::new()
            .name("agent-doors".into())
            .spawn(watch)
            .map_err(AgentError::Thread)?;
        Ok(doors)
    }

    /// The connection of an agent that knows the key.
    pub(super) fn agent(&self, timeout: Duration) -> Result<UnixStream, AgentError> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => AgentError::NotThere(timeout),
            RecvTimeoutError::Disconnected => AgentError::Gone,
        })
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<Token, OnStream>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `then` with the stream that has this token.
    pub(super) fn expect(&self, token: Token, then: OnStream) {
        self.expected().insert(token, then);
    }

    /// No longer waits for a stream.
    pub(super) fn forget(&self, token: &Token) {
        self.expected().remove(token);
    }

    fn listen_to(&self, strangers: &mut Vec<Stranger>, agents: &SyncSender<UnixStream>) {
        let now = Instant::now();
        let mut rest = Vec::with_capacity(strangers.len());
        for mut stranger in strangers.drain(..) {
            match stranger.listen() {
                Ok(true) => self.let_in(stranger, agents),
                Ok(false) if now < stranger.until => rest.push(stranger),
                // Too slow, or gone.
                Ok(false) | Err(_) => {}
            }
        }
        *strangers = rest;
    }

    fn let_in(&self, stranger: Stranger, agents: &SyncSender<UnixStream>) {
        if stranger.connection.set_nonblocking(false).is_err() {
            return;
        }
        match Preamble::decode(&stranger.said) {
            Some(Preamble::Control(token)) if token == self.key => {
                // Nobody has asked for the last one yet: then it is this one's turn to dial again.
                let _ = agents.try_send(stranger.connection);
            }
            Some(Preamble::Stream(token)) => {
                let then = self.expected().remove(&token);
                if let Some(then) = then {
                    then(stranger.connection);
                }
            }
            Some(Preamble::Control(_)) | None => log::warn!(
                "a connection to {} was closed: it is not from the guest's agent",
                self.path.display()
            ),
        }
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        let _ = write(&self.wake, &1_u64.to_ne_bytes());
        let _ = fs::remove_file(&self.path);
    }
}

fn take_new(listener: &UnixListener, strangers: &mut Vec<Stranger>) {
    while let Ok((connection, _)) = listener.accept() {
        if strangers.len() < MOST_STRANGERS && connection.set_nonblocking(true).is_ok() {
            strangers.push(Stranger {
                connection,
                said: [0; Preamble::LEN],
                count: 0,
                until: Instant::now() + PATIENCE,
            });
        }
    }
}

/// Replaces a socket that nobody listens on any more.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Waits for anything to happen; false when the doors are closed.
fn wait(listener: &UnixListener, wake: &OwnedFd, strangers: &[Stranger]) -> rustix::io::Result<bool> {
    let mut waiting = vec![PollFd::new(wake, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
    let silent = strangers.iter().map(|stranger| &stranger.connection);
    waiting.extend(silent.map(|connection| PollFd::new(connection, PollFlags::IN)));
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    match poll(&mut waiting, (!strangers.is_empty()).then_some(&second)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    Ok(waiting.first().is_some_and(|wake| wake.revents().is_empty()))
}

impl Stranger {
    /// True when it has introduced itself.
    fn listen(&mut self) -> io::Result<bool> {
        while let Some(space) = self.said.get_mut(self.count..).filter(|space| !space.is_empty()) {
            match read(&self.connection, space) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.count += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
