//! A VMM as a child: started, listened to, counted, killed. On the caller's thread.
use crate::{Outcome, now_ms};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

const COUNTERS: &str = "/sys/kernel/debug/kvm";

/// A VMM, killed and reaped when dropped.
pub(super) struct Vmm {
    child: Child,
    pub(super) start_ms: f64,
}

impl Vmm {
    /// Starts it at a set distance from the host's timer tick: what it waits for in the kernel ends at a tick, so an
    /// arbitrary start would add up to 4 ms of chance.
    pub(super) fn start(argv: &[String], number: u32) -> io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        // The last VM's remains have time to go. Half a tick apart: the mean of two is close to that of all phases.
        let offset = f64::from(number % 2) * 2.0;
        let start = (now_ms() / 100.0).ceil() * 100.0 + 100.0 + offset;
        thread::sleep(Duration::from_secs_f64((start - now_ms()).max(0.0) / 1e3));
        let start_ms = now_ms();
        let child = command.spawn()?;
        Ok(Self { child, start_ms })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The guest's console. The VMM's input stays open meanwhile.
    pub(super) fn console(&mut self) -> Outcome<Console> {
        let output = self.child.stdout.take().ok_or("the VMM has no standard output")?;
        Ok(Console {
            output,
            text: Vec::new(),
            start_ms: self.start_ms,
        })
    }

    /// Types a line on the guest's console.
    pub(super) fn type_line(&mut self) -> Outcome<()> {
        let input = self.child.stdin.as_mut().ok_or("the VMM has no standard input")?;
        Ok(input.write_all(b"\n")?)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a guest writes to its console.
pub(super) struct Console {
    output: ChildStdout,
    text: Vec<u8>,
    start_ms: f64,
}

impl Console {
    /// The next lines, and how many milliseconds after the VMM's start the last byte of them came. At most `limit_ms`
    /// after that start.
    pub(super) fn lines(&mut self, limit_ms: f64) -> Outcome<(String, f64)> {
        let mut piece = [0; 4096];
        loop {
            if !ready(&self.output, self.start_ms + limit_ms)? {
                return Err(format!("nothing more after {limit_ms} ms but {:?}", self.rest()).into());
            }
            let count = self.output.read(&mut piece)?;
            let came = now_ms() - self.start_ms;
            if count == 0 {
                return Err(format!("the VMM ended after {:?}", self.rest()).into());
            }
            self.text.extend_from_slice(piece.get(..count).unwrap_or_default());
            if let Some(end) = self.text.iter().rposition(|byte| *byte == b'\n') {
                let whole: Vec<u8> = self.text.drain(..=end).collect();
                return Ok((String::from_utf8_lossy(&whole).into_owned(), came));
            }
        }
    }

    fn rest(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

/// The numbers that KVM keeps about the VM of a process.
pub(super) fn counters(pid: u32) -> Outcome<BTreeMap<String, u64>> {
    let prefix = format!("{pid}-");
    let mut counters = BTreeMap::new();
    for vm in fs::read_dir(COUNTERS)?.flatten() {
        if !vm.file_name().to_string_lossy().starts_with(&prefix) {
            continue;
        }
        for file in fs::read_dir(vm.path())?.flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            if let Ok(number @ 1..) = text.trim().parse() {
                counters.insert(file.file_name().to_string_lossy().into_owned(), number);
            }
        }
        return Ok(counters);
    }
    Err("the VMM has no VM that debugfs knows".into())
}

/// Waits until something can be read; false once the clock shows `until_ms`.
pub(super) fn ready(file: impl AsFd, until_ms: f64) -> io::Result<bool> {
    loop {
        let left = Duration::from_secs_f64((until_ms - now_ms()).max(0.0) / 1e3);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
