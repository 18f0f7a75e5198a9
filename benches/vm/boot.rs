//! Boots: every one of the plan on the deterministic clock, and starts on this machine's own KVM.
mod native;
mod plan;
mod table;

use crate::{Outcome, Wishes, committed, emulated::Inputs};
use coracle::host::HostArch;
use coracle_measure::{
    Answer,
    report::{self, FORMAT, Figures, Report},
};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};

/// How often each boot is measured. The first one finds cold caches and does not count.
const REPEATS: u32 = 3;

/// Measures, prints, compares. False if a figure got worse.
pub(crate) fn run(wishes: &Wishes, scratch: &Path) -> Outcome<bool> {
    let mut latest = serde_json::Map::new();
    let mut reports = Vec::new();
    for arch in &wishes.archs {
        let report = measure(*arch, &scratch.join(arch.name()))?;
        latest.insert(arch.name().to_string(), serde_json::to_value(&report)?);
        reports.push(report);
    }
    let native = (!wishes.no_native).then(|| native::measure(&scratch.join("native")));
    if let Some(Ok(native)) = &native {
        latest.insert("native".to_string(), json!(native));
    }
    fs::write(
        scratch.join("latest.json"),
        serde_json::to_string_pretty(&latest)? + "\n",
    )?;
    reports.iter().for_each(table::print);
    if !reports.is_empty() {
        table::legend();
    }
    match native {
        Some(Ok(native)) => table::print_native(&native),
        Some(Err(error)) => println!("\nnot measured natively: {error}"),
        None => {}
    }
    let mut fine = true;
    for report in &reports {
        fine &= committed::compare(&report.arch, report, report::compare);
        if wishes.save {
            committed::save(&report.arch, report)?;
        }
    }
    Ok(fine)
}

/// Measures one architecture; `folder` takes what is made on the way.
fn measure(arch: HostArch, folder: &Path) -> Outcome<Report> {
    let inputs = Inputs::find(arch)?;
    let _ = fs::remove_dir_all(folder);
    let run = folder.join("run");
    fs::create_dir_all(&run)?;
    plan::write(&run, REPEATS)?;
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, plan::initramfs(&inputs.probe)?)?;
    let answers: Vec<Answer> = inputs.probe("boot", folder, vec![(initramfs, "initramfs".to_string())])?;
    let figures = |answer: &Answer| Some((answer.name.clone(), Figures::of(answer)?));
    let boots: Option<BTreeMap<_, _>> = answers.iter().map(figures).collect();
    Ok(Report {
        format: FORMAT,
        arch: arch.name().to_string(),
        kernel: inputs.kernel()?,
        boots: boots.ok_or("the probe took too few samples")?,
    })
}
