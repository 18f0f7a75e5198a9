//! What the guest writes to its console, on its way to a file descriptor.
//!
//! Bytes are put into a bounded buffer on the thread of a vCPU (serial port) or of I/O (virtio). A full line is written at once, as far as the target takes
//! it without waiting; the pump thread takes care of the rest: a line that is not ended yet, and a target that is slow.
//! While the buffer is full the port says so to the guest, which waits: nothing is lost and nothing grows.
//!
//! Lock order: port, then this buffer. The pump therefore never holds the buffer when it calls the port.
use super::lines::Lines;
use crate::wake::Wake;
use coracle_devices::serial::SerialOutput;
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Bytes that wait for a slow target.
const CAPACITY: usize = 64 << 10;
/// How long an unfinished line waits for its rest.
const LINGER_MS: u64 = 2;
/// How long the end of a VM waits for a target that takes nothing.
const DRAIN_MS: i32 = 2000;
/// A panicking kernel says so in a line with these words.
const PANIC: &str = "Kernel panic - not syncing: ";
/// Bytes of a line that are searched for a panic.
const LINE: usize = 512;

/// What to do when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The guest waits.
    Wait,
    /// The oldest bytes go: a target that may have no reader at all, such as a pseudo-terminal.
    DropOldest,
}

/// Called with the message of a kernel panic.
pub(crate) type OnPanic = Box<dyn Fn(String) + Send + Sync>;

struct Pending {
    bytes: VecDeque<u8>,
    /// The unfinished line, for the search.
    line: Vec<u8>,
    /// The target took nothing last time; the pump waits for it.
    stalled: bool,
    /// The target is gone; everything is thrown away.
    dead: bool,
    closing: bool,
}

/// The buffer and its target.
pub(crate) struct Output {
    pending: Mutex<Pending>,
    target: Option<File>,
    /// Bytes that one write may take after `poll` said that there is room.
    chunk: usize,
    when_full: WhenFull,
    wake: Wake,
    lines: Arc<Lines>,
    on_panic: OnPanic,
}

impl Output {
    /// An output to `target`; `lines` hear when there is room again.
    pub(crate) fn new(
        target: Option<OwnedFd>,
        when_full: WhenFull,
        lines: &Arc<Lines>,
        on_panic: OnPanic,
    ) -> io::Result<Self> {
        let target = target.map(File::from);
        // A terminal promises room for few bytes only, a pipe for a page.
        let chunk = if target.as_ref().is_some_and(rustix::termios::isatty) {
            256
        } else {
            4096
        };
        Ok(Self {
            pending: Mutex::new(Pending {
                bytes: VecDeque::new(),
                line: Vec::new(),
                stalled: false,
                dead: target.is_none(),
                closing: false,
            }),
            target,
            chunk,
            when_full,
            wake: Wake::new()?,
            lines: lines.clone(),
            on_panic,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Searches for a panic line by line; returns its message.
    fn scan(pending: &mut Pending, bytes: &[u8]) -> Option<String> {
        let mut found = None;
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&pending.line);
                if let Some((_, message)) = line.split_once(PANIC) {
                    found = Some(message.trim_end().to_owned());
                }
                pending.line.clear();
            } else if pending.line.len() < LINE {
                pending.line.push(*byte);
            }
        }
        found
    }

    /// Writes what the target takes without waiting.
    fn flush(&self, pending: &mut Pending) {
        let Some(target) = &self.target else { return };
        pending.stalled = false;
        while !pending.bytes.is_empty() && !pending.dead {
            if !ready(target, PollFlags::OUT, 0) {
                pending.stalled = true;
                return;
            }
            let (front, _) = pending.bytes.as_slices();
            let piece = front.get(..front.len().min(self.chunk)).unwrap_or_default();
            match (&*target).write(piece) {
                Ok(n) => drop(pending.bytes.drain(..n)),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    pending.stalled = true;
                    return;
                }
                Err(error) => {
                    log::warn!("the console's output is gone, guest output is thrown away from now on: {error}");
                    pending.dead = true;
                    pending.bytes.clear();
                }
            }
        }
    }

    /// The pump: finishes what `put` could not. Returns when closed and drained.
    fn pump(&self) {
        loop {
            let (stalled, closing) = {
                let pending = self.lock();
                (pending.stalled && !pending.bytes.is_empty(), pending.closing)
            };
            if closing && !stalled {
                return;
            }
            match &self.target {
                Some(target) if stalled => {
                    let limit = if closing { DRAIN_MS } else { -1 };
                    if !self.wait_for_target(target, limit) && closing {
                        log::warn!("the console's output took nothing for {DRAIN_MS} ms; the rest of it is lost");
                        return;
                    }
                }
                _ => {
                    ready(&self.wake, PollFlags::IN, -1);
                    self.wake.clear();
                    thread::sleep(Duration::from_millis(LINGER_MS));
                }
            }
            self.flush(&mut self.lock());
            self.tell_lines();
        }
    }

    /// Waits until the target takes bytes or has failed; a wake-up ends the wait too.
    fn wait_for_target(&self, target: &File, limit: i32) -> bool {
        let mut fds = [
            PollFd::new(target, PollFlags::OUT),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        let limit = (limit >= 0)
            .then(|| Duration::from_millis(limit.unsigned_abs().into()).try_into().ok())
            .flatten();
        let answered = poll(&mut fds, limit.as_ref()).is_ok_and(|n| n > 0);
        self.wake.clear();
        answered
    }

    /// Tells the guest that there is room, if it waits for that.
    fn tell_lines(&self) {
        if self.has_room() {
            self.lines.output_drained();
        }
    }
}

impl SerialOutput for Output {
    fn put(&self, bytes: &[u8]) -> usize {
        let mut pending = self.lock();
        let taken = if pending.dead {
            bytes.len()
        } else {
            let was_empty = pending.bytes.is_empty();
            let room = match self.when_full {
                WhenFull::Wait => CAPACITY - pending.bytes.len().min(CAPACITY),
                WhenFull::DropOldest => bytes.len().min(CAPACITY),
            };
            let taken = bytes.len().min(room);
            pending.bytes.extend(bytes.iter().take(taken));
            let excess = pending.bytes.len().saturating_sub(CAPACITY);
            drop(pending.bytes.drain(..excess));
            let was_stalled = pending.stalled;
            if !was_stalled && (bytes.contains(&b'\n') || pending.bytes.len() >= self.chunk) {
                self.flush(&mut pending);
            }
            // The pump hears of a new unfinished line and of a target that has just become slow.
            if !pending.bytes.is_empty() && (was_empty || pending.stalled != was_stalled) {
                self.wake.signal();
            }
            taken
        };
        // What was not taken comes again.
        let panic = Self::scan(&mut pending, bytes.get(..taken).unwrap_or_default());
        drop(pending);
        if let Some(message) = panic {
            (self.on_panic)(message);
        }
        taken
    }

    fn has_room(&self) -> bool {
        let pending = self.lock();
        pending.dead || self.when_full == WhenFull::DropOldest || pending.bytes.len() < CAPACITY
    }
}

/// The thread that finishes what the vCPU could not write. Dropping it drains the buffer, within limits.
pub(crate) struct Pump {
    output: Arc<Output>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    pub(crate) fn spawn(output: &Arc<Output>) -> io::Result<Self> {
        let pumped = output.clone();
        let thread = thread::Builder::new()
            .name("console-out".into())
            .spawn(move || pumped.pump())?;
        Ok(Self {
            output: output.clone(),
            thread: Some(thread),
        })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.output.lock().closing = true;
        self.output.wake.signal();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("the console's output thread panicked");
        }
    }
}

/// Whether `fd` has one of `events` (or an error) within `limit` milliseconds; -1 waits for ever.
pub(super) fn ready(fd: &impl AsFd, events: PollFlags, limit: i64) -> bool {
    let limit = u64::try_from(limit)
        .ok()
        .and_then(|ms| Duration::from_millis(ms).try_into().ok());
    poll(&mut [PollFd::new(fd, events)], limit.as_ref()).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests;
