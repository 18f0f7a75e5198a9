//! What the operator types (or a file holds), on its way to the guest's console: one thread that reads no more than
//! the guest's port has room for.
use super::{
    lines::Lines,
    output::ready,
    terminal::{Escape, EscapeKeys, RawMode},
};
use crate::wake::Wake;
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
    thread::{self, JoinHandle},
};
use vmm_sys_util::eventfd::EventFd;

/// Bytes read at once.
const CHUNK: usize = 256;

/// Called when the operator uses an escape key.
pub(crate) type OnEscape = Box<dyn Fn(Escape) + Send>;

/// The running thread. Dropping it ends the thread and restores the terminal.
pub(crate) struct Input {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    lines: Arc<Lines>,
    /// Written by a port when it has room again, and when a new port is attached.
    room: Wake,
    stop: Wake,
}

impl Input {
    /// Starts reading `source`. If it is the operator's own terminal (`interactive`), it goes into raw mode, with
    /// escape keys, until the value is dropped.
    pub(crate) fn spawn(source: File, interactive: bool, lines: &Arc<Lines>, on_escape: OnEscape) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            lines: lines.clone(),
            room: Wake::new()?,
            stop: Wake::new()?,
        });
        let raw = if interactive { RawMode::enter(&source)? } else { None };
        let reader = Reader {
            shared: shared.clone(),
            source: Some(source),
            keys: raw.is_some().then(EscapeKeys::default),
            _raw: raw,
            pending: Vec::new(),
            on_escape,
        };
        let thread = thread::Builder::new()
            .name("console-in".into())
            .spawn(move || reader.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Written when a port has room again.
    pub(crate) fn room(&self) -> io::Result<EventFd> {
        self.shared.room.event()
    }

    /// Another port is there.
    pub(crate) fn attached(&self) {
        self.shared.room.signal();
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.shared.stop.signal();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the console's input thread panicked");
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    source: Option<File>,
    keys: Option<EscapeKeys>,
    /// Restores the terminal when the thread ends.
    _raw: Option<RawMode>,
    /// Read, but not taken by the port yet.
    pending: Vec<u8>,
    on_escape: OnEscape,
}

impl Reader {
    fn run(mut self) {
        while !ready(&self.shared.stop, PollFlags::IN, 0) {
            self.deliver();
            let blocked = !self.pending.is_empty();
            let mut fds = vec![
                PollFd::new(&self.shared.stop, PollFlags::IN),
                PollFd::new(&self.shared.room, PollFlags::IN),
            ];
            if let Some(source) = self.source.as_ref().filter(|_| !blocked) {
                fds.push(PollFd::new(source, PollFlags::IN));
            }
            if poll(&mut fds, None).is_err() {
                continue;
            }
            let readable = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            self.shared.room.clear();
            if readable {
                self.read();
            }
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        let Some(source) = &mut self.source else { return };
        match source.read(&mut chunk) {
            Ok(0) => self.source = None,
            Ok(n) => self.take(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => {
                log::warn!("the console's input has ended: {error}");
                self.source = None;
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match &mut self.keys {
            None => self.pending.extend_from_slice(bytes),
            Some(keys) => {
                let (bytes, escapes) = keys.filter(bytes);
                self.pending.extend(bytes);
                for escape in escapes {
                    (self.on_escape)(escape);
                }
            }
        }
    }

    /// Gives the live port what it takes.
    fn deliver(&mut self) {
        if !self.pending.is_empty() {
            let taken = self.shared.lines.receive(&self.pending);
            self.pending.drain(..taken.min(self.pending.len()));
        }
    }
}
