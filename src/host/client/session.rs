//! One command in the host, seen from the client: feeds its standard input, passes its output on, waits for its end.
//!
//! The caller's thread reads what comes back; one thread feeds standard input, never more than the agent's window.
use super::super::HostError;
use super::Host;
use coracle_protocol::{
    agent::{CHUNK, Input, Output, STDIN_WINDOW, Window},
    frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What a command reads.
#[derive(Debug, Clone)]
pub enum Stdin {
    /// The standard input of this process.
    Inherit,
    /// Nothing.
    Null,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A command that has been asked for.
#[derive(Debug)]
pub struct Session {
    host: Host,
    from: BufReader<UnixStream>,
    to: Signals,
}

/// Sends signals and terminal sizes to a command, from any thread.
#[derive(Debug, Clone)]
pub struct Signals(Arc<Mutex<UnixStream>>);

impl Signals {
    /// Sends a signal, by its Linux number, to the command's process group. A command that has ended does not mind.
    pub fn send(&self, number: i32) {
        let _ = self.input(&Input::Signal(number));
    }

    /// Tells the command that its terminal has a new size.
    pub fn resize(&self, window: Window) {
        let _ = self.input(&Input::Window(window));
    }

    fn input(&self, input: &Input) -> Result<(), frame::FrameError> {
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *to, input)
    }
}

/// How much more standard input the agent takes.
#[derive(Debug, Default)]
struct Credit {
    /// Bytes on their way; `None` once the command has ended.
    pending: Mutex<Option<usize>>,
    changed: Condvar,
    /// Something was read or written, so that the command cannot be run again unnoticed.
    touched: AtomicBool,
}

impl Credit {
    fn change(&self, to: impl FnOnce(Option<usize>) -> Option<usize>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending = to(*pending);
        self.changed.notify_all();
    }

    /// Waits until another chunk fits; false once the command has ended.
    fn wait(&self) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |pending: &mut Option<usize>| pending.is_some_and(|p| p + CHUNK > STDIN_WINDOW);
        let pending = self.changed.wait_while(pending, full);
        pending.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn ended(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Session {
    pub(super) fn new(host: Host, channel: UnixStream, back: UnixStream) -> Self {
        Self {
            host,
            from: BufReader::with_capacity(128 << 10, back),
            to: Signals(Arc::new(Mutex::new(channel))),
        }
    }

    /// For sending signals while [`Session::run`] runs.
    pub fn signals(&self) -> Signals {
        self.to.clone()
    }

    /// Serves the command's streams until it ends; answers with its exit code, 128 + n after signal n. If writing to
    /// `stdout` or `stderr` fails the command is killed, as a pipe would do.
    pub fn run(mut self, stdin: Stdin, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<u8, HostError> {
        let credit = Arc::new(Credit {
            pending: Mutex::new(Some(0)),
            ..Credit::default()
        });
        self.feed(stdin, Arc::clone(&credit))?;
        let outcome = self.pass(&credit, stdout, stderr);
        credit.change(|_| None);
        outcome.map_err(|error| match error {
            HostError::Lost { arch, reason, .. } => HostError::Lost {
                arch,
                reason,
                again: !credit.touched.load(Ordering::Acquire),
            },
            other => other,
        })
    }

    fn pass(&mut self, credit: &Credit, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<u8, HostError> {
        let closed = |name: &'static str| {
            move |source| HostError::File {
                wish: "write to",
                path: name.into(),
                source,
            }
        };
        let write = |to: &mut dyn Write, bytes: &[u8], name| {
            credit.touched.store(true, Ordering::Release);
            to.write_all(bytes).and_then(|()| to.flush()).map_err(closed(name))
        };
        loop {
            match self.host.answer(&mut self.from)? {
                Output::Started => {}
                Output::Stdout(bytes) => write(stdout, &bytes, "standard output")?,
                Output::Stderr(bytes) => write(stderr, &bytes, "standard error")?,
                Output::StdinTaken(count) => {
                    credit.change(|p| p.map(|p| p.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX))));
                }
                Output::Exited(code) => return Ok(code),
                Output::Failed { code, reason } => return Err(HostError::Command { code, reason }),
                Output::File { path } => {
                    return Err(HostError::Refused(format!("the emulated host sent {path} unasked")));
                }
            }
        }
    }

    /// Feeds standard input on a thread, which ends within moments of the command.
    fn feed(&self, stdin: Stdin, credit: Arc<Credit>) -> Result<(), HostError> {
        let to = self.to.clone();
        let work = move || {
            let fed = match stdin {
                Stdin::Null => Ok(()),
                Stdin::Bytes(bytes) => feed_from(&mut bytes.as_slice(), &to, &credit),
                Stdin::Inherit => feed_from(&mut Patient(&credit), &to, &credit),
            };
            if fed.is_ok() {
                let _ = to.input(&Input::StdinEnd);
            }
        };
        let spawned = std::thread::Builder::new().name("stdin".into()).spawn(work);
        spawned.map(|_| ()).map_err(|source| HostError::File {
            wish: "start a thread for",
            path: "standard input".into(),
            source,
        })
    }
}

fn feed_from(from: &mut impl Read, to: &Signals, credit: &Credit) -> Result<(), frame::FrameError> {
    let mut bytes = vec![0; CHUNK];
    while credit.wait() {
        let count = match from.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What cannot be read has ended.
            Err(_) => 0,
        };
        if count == 0 {
            break;
        }
        credit.touched.store(true, Ordering::Release);
        credit.change(|pending| pending.map(|p| p + count));
        to.input(&Input::Stdin(bytes.get(..count).unwrap_or_default().to_vec()))?;
    }
    Ok(())
}

/// Standard input of this process, read only when there is something, and no more once the command has ended: what
/// comes later is for whoever reads next.
struct Patient<'a>(&'a Credit);

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let tenth = Timespec {
            tv_sec: 0,
            tv_nsec: Duration::from_millis(100).subsec_nanos().into(),
        };
        let stdin = rustix::stdio::stdin();
        loop {
            let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&tenth))?;
            if self.0.ended() {
                return Ok(0);
            }
            if ready > 0 {
                return Ok(rustix::io::read(stdin, buf)?);
            }
        }
    }
}
