//! One command of one client: its process, its streams, its end.
//!
//! The client's thread reads [`Input`]; one thread feeds standard input, one each forwards standard output and error,
//! and one waits for the end. All of them write [`Output`] through one lock, held for one message. When the client
//! goes away the command's process group is killed.
use super::{
    Agent,
    children::{self, Streams, set_size},
};
use coracle_guest::children::Running;
use coracle_protocol::{
    agent::{CHUNK, Exec, Input, Output, STDIN_WINDOW},
    frame,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

/// Where a command's output goes; one message at a time.
pub(super) struct Sink<W>(Mutex<W>);

impl<W: Write> Sink<W> {
    pub(super) fn new(to: W) -> Self {
        Self(Mutex::new(to))
    }

    /// Errors mean that the client went away, which its reader notices too.
    pub(super) fn send(&self, output: &Output) -> bool {
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *to, output).is_ok()
    }
}

/// Runs a command for the client at the other end, until it or the client ends.
pub(super) fn run<R, W>(agent: &Agent, exec: &Exec, mut from: R, to: W)
where
    R: Read + Send,
    W: Write + Send,
{
    let sink = Sink::new(to);
    let (running, mut streams) = match children::start(&agent.children, exec, None) {
        Ok(started) => started,
        Err(failed) => {
            sink.send(&failed);
            return;
        }
    };
    sink.send(&Output::Started);
    let terminal = streams.terminal.take();
    let stdin = streams.stdin.take();
    let (feed, fed) = channel();
    let (pending, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|threads| {
        let (pending, ended, sink) = (&pending, &ended, &sink);
        threads.spawn(move || feed_stdin(stdin, fed, (pending, ended), sink));
        threads.spawn(move || {
            let code = forward(streams, ended, sink);
            sink.send(&Output::Exited(code));
        });
        while let Ok(Some(input)) = frame::read::<Input>(&mut from) {
            if !take_input(input, &running, (&feed, pending), terminal.as_ref()) {
                break;
            }
        }
        drop(feed);
        // The client is gone. A command that has ended is not affected.
        let _ = running.signal_group(Signal::KILL);
    });
}

/// False for a client that does not keep to the protocol.
fn take_input(
    input: Input,
    running: &Running,
    (feed, pending): (&Sender<Option<Vec<u8>>>, &AtomicUsize),
    terminal: Option<&File>,
) -> bool {
    match input {
        Input::Stdin(bytes) => {
            let before = pending.fetch_add(bytes.len(), Ordering::Relaxed);
            if before + bytes.len() > STDIN_WINDOW {
                return false;
            }
            let _ = feed.send(Some(bytes));
        }
        Input::StdinEnd => {
            let _ = feed.send(None);
        }
        Input::Signal(number) => {
            if let Some(signal) = Signal::from_named_raw(number) {
                let _ = running.signal_group(signal);
            }
        }
        Input::Window(window) => {
            if let Some(terminal) = terminal {
                let _ = set_size(terminal, window);
            }
        }
    }
    true
}

fn feed_stdin(
    mut stdin: Option<File>,
    fed: Receiver<Option<Vec<u8>>>,
    (pending, ended): (&AtomicUsize, &AtomicBool),
    sink: &Sink<impl Write>,
) {
    while let Ok(bytes) = fed.recv() {
        let Some(bytes) = bytes else {
            stdin = None;
            continue;
        };
        // A command that closed its standard input wants no more of it.
        if let Some(file) = &mut stdin
            && write_while(file, &bytes, ended).is_err()
        {
            stdin = None;
        }
        pending.fetch_sub(bytes.len(), Ordering::Relaxed);
        sink.send(&Output::StdinTaken(bytes.len() as u64));
    }
}

/// Writes all bytes to a file that does not block, or gives up once the command has ended.
fn write_while(file: &mut File, mut bytes: &[u8], ended: &AtomicBool) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ended.load(Ordering::Acquire) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                wait_for(file, PollFlags::OUT)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits up to a second; true if there is something to do.
fn wait_for(file: &File, what: PollFlags) -> io::Result<bool> {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    match poll(&mut [PollFd::new(file, what)], Some(&second)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Passes the output on until the command has ended and its streams are dry; then answers with its exit code.
pub(super) fn forward<W>(streams: Streams, ended: &AtomicBool, sink: &Sink<W>) -> u8
where
    W: Write + Send,
{
    thread::scope(|threads| {
        threads.spawn(|| pump(streams.stdout, sink, Output::Stdout, ended));
        if let Some(stderr) = streams.stderr {
            threads.spawn(|| pump(stderr, sink, Output::Stderr, ended));
        }
        let code = streams.ended.recv().unwrap_or(255);
        ended.store(true, Ordering::Release);
        code
    })
}

/// Forwards one stream to its end. A process that left the command's group may keep the stream open: once the command
/// has ended, what is in the stream is taken, and no more than it can hold.
fn pump<W: Write>(mut from: File, sink: &Sink<W>, output: fn(Vec<u8>) -> Output, ended: &AtomicBool) {
    let mut bytes = vec![0; CHUNK];
    let mut late = 0;
    while late <= 1 << 20 {
        let over = ended.load(Ordering::Acquire);
        match wait_for(&from, PollFlags::IN) {
            Ok(true) => {}
            Ok(false) if over => break,
            Ok(false) => continue,
            Err(_) => break,
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                late += if over { count } else { 0 };
                let piece = bytes.get(..count).unwrap_or_default().to_vec();
                if !sink.send(&output(piece)) {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // A terminal answers EIO once its other end is closed.
            Err(_) => break,
        }
    }
}
