//! A command that stays with a process of a container: it passes signals on to it, carries the terminal's bytes if it
//! has one, and ends with its exit code. One thread, one loop.
use super::{Error, Result, calls, tty};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read, retry_on_intr, write},
    process::{Pid, WaitOptions, WaitStatus, pidfd_send_signal, wait},
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};
use std::os::fd::{AsFd as _, OwnedFd};

/// Signals of this command, held back from now on until somebody waits for them.
#[derive(Debug)]
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// To be called before the process is made, so that no signal is lost.
    pub(super) fn hold() -> Result<Self> {
        calls::catch_signals()
            .map(Self)
            .map_err(Error::step("hold signals back"))
    }

    /// The signals that have come.
    fn take(&self) -> Result<Vec<i32>> {
        let mut taken = Vec::new();
        loop {
            let mut info = [0; calls::SIGNAL_INFO];
            match retry_on_intr(|| read(&self.0, &mut info)) {
                Ok(_) => taken.extend(info.first_chunk().map(|number| i32::from_ne_bytes(*number))),
                Err(Errno::AGAIN) => return Ok(taken),
                Err(error) => return Err(Error::step("read signals")(error)),
            }
        }
    }
}

/// What a shell would tell of how a process ended.
pub(super) fn exit_code(status: WaitStatus) -> u8 {
    let code = match status.terminating_signal() {
        Some(signal) => 128 + signal,
        None => status.exit_status().unwrap_or(1),
    };
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

/// Stays with a child until it ends; its exit code. `terminal` is a socket on which the master of its terminal has been
/// sent.
pub(super) fn stay(process: Pid, signals: &Signals, terminal: Option<OwnedFd>) -> Result<u8> {
    let handle = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())
        .map_err(Error::step("watch the container's process"))?;
    let mut carrier = terminal
        .map(|socket| Carrier::new(tty::receive(socket.as_fd())?))
        .transpose()?;
    loop {
        wait_for_work(signals, carrier.as_mut())?;
        for signal in signals.take()? {
            match signal {
                libc::SIGCHLD => {
                    if let Some(code) = reap(process)? {
                        if let Some(carrier) = &mut carrier {
                            carrier.drain();
                        }
                        return Ok(code);
                    }
                }
                libc::SIGWINCH if carrier.is_some() => {
                    if let Some(carrier) = &carrier {
                        carrier.resize();
                    }
                }
                // Sent by the kernel or the Go runtime of a caller, and of no meaning to another process.
                libc::SIGURG | libc::SIGPIPE | libc::SIGTTIN | libc::SIGTTOU => {}
                other => {
                    if let Some(signal) = calls::signal(other) {
                        // It may have ended meanwhile.
                        let _ = pidfd_send_signal(&handle, signal);
                    }
                }
            }
        }
    }
}

/// Collects all children that have ended: those of the process become this command's, if it is their reaper.
fn reap(process: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == process => code = Some(exit_code(status)),
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(code),
            Err(error) => return Err(Error::step("wait for the container's process")(error)),
        }
    }
}

fn wait_for_work(signals: &Signals, carrier: Option<&mut Carrier>) -> Result<()> {
    let wish = "wait for signals and bytes";
    let Some(carrier) = carrier else {
        let mut events = [PollFd::new(&signals.0, PollFlags::IN)];
        return retry_on_intr(|| poll(&mut events, None))
            .map(drop)
            .map_err(Error::step(wish));
    };
    let (standard_input, no_flags) = (stdin(), PollFlags::empty());
    let wants_input = carrier.reads && carrier.pending.is_empty();
    let mut wanted = if carrier.open { PollFlags::IN } else { no_flags };
    if !carrier.pending.is_empty() {
        wanted |= PollFlags::OUT;
    }
    let mut events = vec![PollFd::new(&signals.0, PollFlags::IN)];
    if carrier.open {
        events.push(PollFd::new(&carrier.master, wanted));
    }
    if wants_input {
        events.push(PollFd::new(&standard_input, PollFlags::IN));
    }
    retry_on_intr(|| poll(&mut events, None)).map_err(Error::step(wish))?;
    let mut ready = events.iter().skip(1).map(|event| !event.revents().is_empty());
    let master = carrier.open && ready.next().unwrap_or_default();
    let input = wants_input && ready.next().unwrap_or_default();
    if master {
        carrier.forward_output();
        carrier.flush();
    }
    if input {
        carrier.take_input();
        carrier.flush();
    }
    Ok(())
}

/// Between this command's terminal and the container's.
struct Carrier {
    master: OwnedFd,
    /// The container's end is open.
    open: bool,
    /// Standard input has not ended.
    reads: bool,
    /// Read, and not taken by the container's terminal yet.
    pending: Vec<u8>,
    /// How this command's terminal was.
    before: Option<Termios>,
}

impl Carrier {
    fn new(master: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).map_err(Error::step("make the terminal's master non-blocking"))?;
        let mut carrier = Self {
            master,
            open: true,
            reads: true,
            pending: Vec::new(),
            before: None,
        };
        if isatty(stdin()) {
            let before = tcgetattr(stdin()).map_err(Error::step("read the terminal's settings"))?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(Error::step("make the terminal raw"))?;
            carrier.before = Some(before);
            carrier.resize();
        }
        Ok(carrier)
    }

    fn resize(&self) {
        // Without a terminal there is no size to pass on.
        if let Ok(size) = tcgetwinsize(stdin()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    fn forward_output(&mut self) {
        let mut bytes = [0; 16 * 1024];
        match retry_on_intr(|| read(&self.master, &mut bytes)) {
            Ok(length) if length > 0 => write_all(bytes.get(..length).unwrap_or_default()),
            Err(Errno::AGAIN) => {}
            // Nobody in the container has the terminal open any more.
            _ => self.open = false,
        }
    }

    fn take_input(&mut self) {
        let mut bytes = [0; 4096];
        match retry_on_intr(|| read(stdin(), &mut bytes)) {
            Ok(length) if length > 0 => self.pending.extend(bytes.iter().take(length)),
            Err(Errno::AGAIN) => {}
            _ => self.reads = false,
        }
    }

    fn flush(&mut self) {
        if !self.open {
            self.pending.clear();
        }
        if self.pending.is_empty() {
            return;
        }
        match retry_on_intr(|| write(&self.master, &self.pending)) {
            Ok(length) => drop(self.pending.drain(..length)),
            Err(Errno::AGAIN) => {}
            Err(_) => self.open = false,
        }
    }

    /// What was written before the end.
    fn drain(&mut self) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = retry_on_intr(|| read(&self.master, &mut bytes)) {
            write_all(bytes.get(..length).unwrap_or_default());
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// A reader that is gone is no reason to end the container.
fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match retry_on_intr(|| write(stdout(), bytes)) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(_) => return,
        }
    }
}
