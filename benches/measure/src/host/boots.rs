//! Boots: how long, how many exits, how much memory. On the caller's thread.
use super::vmm::{Console, Vmm, counters, ready};
use crate::Outcome;
use coracle_measure::{Answer, Boot, Sample, smaps, trace};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Virtual or wall time that one boot may take.
const LIMIT_MS: f64 = 120_000.0;
const TRACING: &str = "/sys/kernel/tracing";

pub(crate) fn run(order: &Path, answer: &Path) -> Outcome<()> {
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

/// Boots to the marker and looks.
fn sample(boot: &Boot, number: u32) -> Outcome<Sample> {
    let (vmm, _console, marker_ms) = boot_to_marker(boot, number)?;
    let process = format!("/proc/{}", vmm.pid());
    let counters = counters(vmm.pid())?;
    Ok(Sample {
        marker_ms,
        counters,
        memory: smaps::split(&fs::read_to_string(format!("{process}/smaps"))?, boot.memory_mib),
        threads: fs::read_dir(format!("{process}/task"))?.count() as u64,
        descriptors: fs::read_dir(format!("{process}/fd"))?.count() as u64,
    })
}

/// A VMM whose guest has just written the marker, its console, and when that was. Keep the console: a VMM whose console
/// breaks has other things to do than to rest.
fn boot_to_marker(boot: &Boot, number: u32) -> Outcome<(Vmm, Console, f64)> {
    let mut vmm = Vmm::start(&boot.argv, number)?;
    let mut console = vmm.console()?;
    loop {
        let (lines, came) = console
            .lines(LIMIT_MS)
            .map_err(|error| format!("no {:?}: {error}", boot.marker))?;
        if lines.contains(&boot.marker) {
            return Ok((vmm, console, came));
        }
    }
}

/// Boots to the marker while the kernel counts exits by their reason, which takes some time of its own.
fn reasons(boot: &Boot) -> Outcome<BTreeMap<String, u64>> {
    let event = format!("{TRACING}/events/kvm/kvm_exit");
    let x86 = fs::read_to_string(format!("{event}/format"))?.contains("exit_reason");
    let trigger = if x86 {
        "hist:keys=exit_reason"
    } else {
        "hist:keys=ret,esr_ec"
    };
    let set = |text: String| fs::write(format!("{event}/trigger"), text);
    set(trigger.to_string()).map_err(|error| format!("the kernel cannot count by {trigger:?}: {error}"))?;
    let counted = boot_to_marker(boot, 0).and_then(|_kept| Ok(fs::read_to_string(format!("{event}/hist"))?));
    set(format!("!{trigger}"))?;
    Ok(trace::histogram(&counted?))
}

/// Starts the VMM and traces KVM until the first vCPU enters the guest.
fn first_run(boot: &Boot, number: u32) -> Outcome<f64> {
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
    let vmm = Vmm::start(&boot.argv, number)?;
    let came = ready(&pipe, vmm.start_ms + LIMIT_MS)?;
    set("tracing_on", "0")?;
    let mut text = vec![0; 1 << 16];
    let count = if came { pipe.read(&mut text)? } else { 0 };
    text.truncate(count);
    set("events/kvm/kvm_entry/enable", "0")?;
    let entry = trace::first_entry_ms(&String::from_utf8_lossy(&text)).ok_or("the trace has no kvm_entry")?;
    Ok(entry - vmm.start_ms)
}
