//! Trials: a VM each, whose guest does its work in steps while the exits of each step are counted.
use super::{
    services,
    vmm::{Console, Vmm, counters},
};
use crate::Outcome;
use coracle_measure::io::{
    Answer, BEGIN, DONE, EMPTY, END, FAILED, HOST_ADDRESS, Measured, Order, RESULT, Step, TAP, Trial, Work,
};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::Command,
};

/// Virtual time that one VM may take.
const LIMIT_MS: f64 = 300_000.0;

pub(crate) fn run(order: &Path, answer: &Path) -> Outcome<()> {
    let order: Order = serde_json::from_slice(&fs::read(order)?)?;
    if let Some((path, mib)) = &order.disk {
        make_disk(Path::new(path), *mib)?;
    }
    if order.trials.iter().any(|trial| trial.work == Work::Net) {
        services::on_tcp()?;
    }
    let mut answers = Vec::new();
    for trial in &order.trials {
        // The others' figures are worth having.
        let answer = one(trial).unwrap_or_else(|error| Answer {
            name: trial.name.clone(),
            failure: Some(error.to_string()),
            ..Answer::default()
        });
        println!(
            "{}: {} steps, done after {:.3} ms",
            trial.name,
            answer.steps.len(),
            answer.done_ms
        );
        answers.push(answer);
    }
    fs::write(answer, serde_json::to_vec(&answers)?)?;
    Ok(())
}

/// A file without holes: what reads of a hole cost is nobody's question.
fn make_disk(path: &Path, mib: u64) -> Outcome<()> {
    let (mut file, piece) = (File::create(path)?, vec![0x5a; 1 << 20]);
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    Ok(())
}

fn one(trial: &Trial) -> Outcome<Answer> {
    let _tap = (trial.work == Work::Net).then(Tap::up).transpose()?;
    if let Work::Vsock { path } = &trial.work {
        services::on_unix(path)?;
    }
    let mut vmm = Vmm::start(&trial.argv, 0)?;
    let mut console = vmm.console()?;
    follow(trial, &mut vmm, &mut console)
}

/// Talks with the guest until it is done.
fn follow(trial: &Trial, vmm: &mut Vmm, console: &mut Console) -> Outcome<Answer> {
    let exits =
        |vmm: &Vmm| Ok::<_, Box<dyn std::error::Error>>(counters(vmm.pid())?.get("exits").copied().unwrap_or(0));
    let mut answer = Answer {
        name: trial.name.clone(),
        ..Answer::default()
    };
    let (mut begin, mut end, mut empty) = (0, 0, None);
    let mut last = String::new();
    loop {
        let (lines, came) = console
            .lines(LIMIT_MS)
            .map_err(|error| format!("after {last:?}: {error}"))?;
        // The kernel may have left a line open.
        for line in lines.lines().filter_map(|line| line.get(line.find('@')?..)) {
            let line = line.trim_end();
            last = format!("step {}, {line}", answer.steps.len());
            if line == BEGIN {
                begin = exits(vmm)?;
                vmm.type_line()?;
            } else if line == END {
                end = exits(vmm)?;
                vmm.type_line()?;
            } else if let Some(text) = line.strip_prefix(RESULT) {
                let measured = Measured::from_line(text).ok_or_else(|| format!("the guest said {line:?}"))?;
                let cost = end - begin;
                if measured.step == EMPTY {
                    empty = Some(cost);
                    continue;
                }
                let empty = empty.ok_or("the guest measured before the empty step")?;
                answer.steps.push(Step {
                    measured,
                    exits: cost.saturating_sub(empty),
                    exits_until: end,
                });
            } else if line == DONE {
                (answer.done_ms, answer.exits) = (came, exits(vmm)?);
                return Ok(answer);
            } else if let Some(reason) = line.strip_prefix(FAILED) {
                return Err(format!("the guest failed: {reason}").into());
            }
        }
    }
}

/// The TAP interface, gone when dropped.
struct Tap;

impl Tap {
    fn up() -> Outcome<Self> {
        let tap = Self;
        // Nobody needs the messages that an interface sends on its own.
        let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        let address = format!("{HOST_ADDRESS}/24");
        busybox(&["tunctl", "-t", TAP])?;
        busybox(&["ip", "address", "add", &address, "dev", TAP])?;
        busybox(&["ip", "link", "set", TAP, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = busybox(&["tunctl", "-d", TAP]);
    }
}

fn busybox(words: &[&str]) -> Outcome<()> {
    let output = Command::new("/bin/busybox").args(words).output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", words.join(" "), reason.trim()).into())
}
