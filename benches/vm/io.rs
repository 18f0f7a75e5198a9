//! The I/O of guests: every trial of the plan on the deterministic clock, beside those of a peer.
mod plan;
mod qemu;
mod table;

use crate::{Outcome, Wishes, committed, emulated::Inputs};
use coracle::{bundle::cpio::Archive, host::HostArch};
use coracle_measure::io::{
    Answer,
    figures::{FORMAT, Report, Trial, compare},
};
use std::{collections::BTreeMap, fs, path::Path};

/// Measures, prints, compares. False if a figure got worse.
pub(crate) fn run(wishes: &Wishes, scratch: &Path) -> Outcome<bool> {
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for arch in &wishes.archs {
        let (report, failed) = measure(*arch, wishes.only.as_deref(), &scratch.join(arch.name()))?;
        reports.push(report);
        failures.extend(failed);
    }
    fs::write(
        scratch.join("latest.json"),
        serde_json::to_string_pretty(&reports)? + "\n",
    )?;
    let mut fine = true;
    for report in &reports {
        table::print(report);
        let name = format!("{}-io", report.arch);
        fine &= committed::compare(&name, report, compare);
        if wishes.save && failures.is_empty() {
            committed::save(&name, report)?;
        }
    }
    if failures.is_empty() {
        return Ok(fine);
    }
    Err(failures.join("; ").into())
}

/// Measures one architecture, and says which trials failed; `folder` takes what is made on the way.
fn measure(arch: HostArch, only: Option<&str>, folder: &Path) -> Outcome<(Report, Vec<String>)> {
    let inputs = Inputs::find(arch)?;
    let _ = fs::remove_dir_all(folder);
    let run = folder.join("run");
    fs::create_dir_all(&run)?;
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, initial_files(&inputs)?)?;
    let mut more = vec![(initramfs, "initramfs".to_string())];
    let peer = match qemu::find(arch) {
        Ok(peer) => {
            more.extend(peer.files.clone());
            Some(peer)
        }
        Err(reason) => {
            println!("{arch}: no peer to compare with: {reason}");
            None
        }
    };
    plan::write(&run, peer.as_ref(), only)?;
    let answers: Vec<Answer> = inputs.probe("io", folder, more)?;
    let failures: Vec<String> = answers
        .iter()
        .filter_map(|answer| Some(format!("{arch}: {}: {}", answer.name, answer.failure.as_ref()?)))
        .collect();
    let trials: BTreeMap<_, _> = answers
        .iter()
        .filter(|answer| answer.failure.is_none())
        .map(|answer| (answer.name.clone(), Trial::of(answer)))
        .collect();
    let report = Report {
        format: FORMAT,
        arch: arch.name().to_string(),
        kernel: inputs.kernel()?,
        trials,
    };
    Ok((report, failures))
}

/// The bundle's initial file system, with its modules and busybox, and the probe in place of its PID 1.
fn initial_files(inputs: &Inputs) -> Outcome<Vec<u8>> {
    let mut bytes = fs::read(inputs.bundle.join("initramfs"))?;
    let mut archive = Archive::new();
    archive.file("init", 0o755, fs::read(&inputs.probe)?)?;
    bytes.extend(archive.to_bytes());
    Ok(bytes)
}
