//! The probe: starts a VMM, waits for its guest, and looks at both. As PID 1 it is the guest's first program instead,
//! which says that user space is there and rests.
//!
//! `coracle-probe ORDER ANSWER`: reads boots as JSON, writes answers as JSON, one line on standard output per step.
//! Runs on one thread, as root, on a machine with `/dev/kvm`, debugfs and tracefs; changes the settings of the latter.
use coracle_measure::{Answer, Boot, MARKER, Sample, smaps, trace};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd,
    time::{ClockId, clock_gettime},
};
use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

/// Virtual or wall time that one boot may take.
const LIMIT_MS: f64 = 120_000.0;
const TRACING: &str = "/sys/kernel/tracing";
const COUNTERS: &str = "/sys/kernel/debug/kvm";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        println!("{MARKER}");
        loop {
            thread::park();
        }
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [order, answer] => run(Path::new(order), Path::new(answer)),
        _ => Err("usage: coracle-probe ORDER ANSWER".into()),
    };
    if let Err(error) = done {
        eprintln!("coracle-probe: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(order: &Path, answer: &Path) -> Result<(), Box<dyn Error>> {
    let boots: Vec<Boot> = serde_json::from_slice(&fs::read(order)?)?;
    let mut answers = Vec::new();
    for boot in &boots {
        let mut answer = Answer {
            name: boot.name.clone(),
            ..Answer::default()
        };
        for number in 0..boot.boots {
            let sample = sample(boot, number).map_err(|error| format!("{}: {error}", boot.name))?;
            println!("{}: user space after {:.3} ms", boot.name, sample.marker_ms);
            answer.samples.push(sample);
        }
        for number in 0..boot.starts {
            let first = first_run(boot, number).map_err(|error| format!("{}: {error}", boot.name))?;
            println!("{}: first KVM_RUN after {first:.3} ms", boot.name);
            answer.first_run_ms.push(first);
        }
        if boot.reasons {
            answer.reasons = reasons(boot).map_err(|error| format!("{}: {error}", boot.name))?;
            println!("{}: exits counted", boot.name);
        }
        answers.push(answer);
    }
    fs::write(answer, serde_json::to_vec(&answers)?)?;
    Ok(())
}

/// A VMM, killed and reaped when dropped.
struct Vmm {
    child: Child,
    start_ms: f64,
}

impl Vmm {
    /// Starts it at a set distance from the host's timer tick: what it waits for in the kernel ends at a tick, so an
    /// arbitrary start would add up to 4 ms of chance.
    fn start(boot: &Boot, number: u32) -> io::Result<Self> {
        let (program, arguments) = boot.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
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
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boots to the marker and looks.
fn sample(boot: &Boot, number: u32) -> Result<Sample, Box<dyn Error>> {
    let (vmm, marker_ms) = boot_to_marker(boot, number)?;
    let process = format!("/proc/{}", vmm.child.id());
    let counters = counters(vmm.child.id())?;
    Ok(Sample {
        marker_ms,
        counters,
        memory: smaps::split(&fs::read_to_string(format!("{process}/smaps"))?, boot.memory_mib),
        threads: fs::read_dir(format!("{process}/task"))?.count() as u64,
        descriptors: fs::read_dir(format!("{process}/fd"))?.count() as u64,
    })
}

/// A VMM whose guest has just written the marker, and when that was.
fn boot_to_marker(boot: &Boot, number: u32) -> Result<(Vmm, f64), Box<dyn Error>> {
    let mut vmm = Vmm::start(boot, number)?;
    let mut console = vmm.child.stdout.take().ok_or("the VMM has no standard output")?;
    let marker_ms = wait_for(&mut console, &boot.marker, &vmm)?;
    // Kept open: a VMM whose console breaks has other things to do than to rest.
    vmm.child.stdout = Some(console);
    Ok((vmm, marker_ms))
}

/// Reads the console up to the end of the line with the marker.
fn wait_for(console: &mut (impl Read + AsFd), marker: &str, vmm: &Vmm) -> Result<f64, Box<dyn Error>> {
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if !ready(&*console, vmm.start_ms + LIMIT_MS)? {
            return Err(format!("no {marker:?} after {LIMIT_MS} ms").into());
        }
        let count = console.read(&mut piece)?;
        let came = now_ms() - vmm.start_ms;
        line.extend_from_slice(piece.get(..count).unwrap_or_default());
        let end = line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = line.drain(..end).collect();
        if String::from_utf8_lossy(&whole).contains(marker) {
            return Ok(came);
        }
        if count == 0 {
            return Err(format!("the VMM ended before {marker:?}").into());
        }
    }
}

/// The numbers that KVM keeps about the VM of a process.
fn counters(pid: u32) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
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

/// Boots to the marker while the kernel counts exits by their reason, which takes some time of its own.
fn reasons(boot: &Boot) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
    let event = format!("{TRACING}/events/kvm/kvm_exit");
    let x86 = fs::read_to_string(format!("{event}/format"))?.contains("exit_reason");
    let trigger = if x86 {
        "hist:keys=exit_reason"
    } else {
        "hist:keys=ret,esr_ec"
    };
    let set = |text: String| fs::write(format!("{event}/trigger"), text);
    set(trigger.to_string()).map_err(|error| format!("the kernel cannot count by {trigger:?}: {error}"))?;
    let counted = boot_to_marker(boot, 0).and_then(|_vmm| Ok(fs::read_to_string(format!("{event}/hist"))?));
    set(format!("!{trigger}"))?;
    Ok(trace::histogram(&counted?))
}

/// Starts the VMM and traces KVM until the first vCPU enters the guest.
fn first_run(boot: &Boot, number: u32) -> Result<f64, Box<dyn Error>> {
    let set = |name: &str, value: &str| fs::write(format!("{TRACING}/{name}"), value);
    for (name, value) in [
        ("tracing_on", "0"),
        ("trace", ""),
        ("trace_clock", "mono"),
        ("options/overwrite", "0"),
        ("buffer_size_kb", "4"),
        ("events/kvm/kvm_entry/enable", "1"),
        ("tracing_on", "1"),
    ] {
        set(name, value).map_err(|error| format!("cannot write {value:?} to {TRACING}/{name}: {error}"))?;
    }
    let mut pipe = File::open(format!("{TRACING}/trace_pipe"))?;
    let vmm = Vmm::start(boot, number)?;
    let came = ready(&pipe, vmm.start_ms + LIMIT_MS)?;
    set("tracing_on", "0")?;
    let mut text = vec![0; 1 << 16];
    let count = if came { pipe.read(&mut text)? } else { 0 };
    text.truncate(count);
    set("events/kvm/kvm_entry/enable", "0")?;
    let entry = trace::first_entry_ms(&String::from_utf8_lossy(&text)).ok_or("the trace has no kvm_entry")?;
    Ok(entry - vmm.start_ms)
}

/// Waits until something can be read; false once the clock shows `until_ms`.
fn ready(file: impl AsFd, until_ms: f64) -> io::Result<bool> {
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

/// The clock that the trace uses too.
#[allow(
    clippy::cast_precision_loss,
    reason = "below 2^53 for the next hundred days of uptime"
)]
fn now_ms() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
