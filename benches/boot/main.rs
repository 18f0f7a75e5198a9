//! Whole-VM benchmarks: boots on the deterministic clock of the emulated host, and starts on this machine's own KVM.
//!
//! `cargo bench --bench boot -- [--arch ARCH]... [--gate] [--save] [--no-native|--native-only]`, which `make bench` calls with
//! everything built. A report, not a test: it fails if it cannot measure, or with `--gate` if a figure got worse.
mod emulated;
mod native;
mod plan;
mod table;

use coracle::host::HostArch;
use coracle_measure::report::{self, Report};
use serde_json::json;
use std::{error::Error, fs, path::PathBuf, process::ExitCode};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the user wants.
#[derive(Debug, Default)]
struct Wishes {
    archs: Vec<HostArch>,
    /// Fail if a figure is worse than the committed one.
    gate: bool,
    /// Keep the figures as those that later ones are compared with.
    save: bool,
    no_native: bool,
    native_only: bool,
}

impl Wishes {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut wishes = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--gate" => wishes.gate = true,
                "--save" => wishes.save = true,
                "--no-native" => wishes.no_native = true,
                "--native-only" => wishes.native_only = true,
                "--arch" => {
                    let name = words.next().unwrap_or_default();
                    let arch = HostArch::from_name(&name).ok_or("--arch takes x86_64 or aarch64")?;
                    wishes.archs.push(arch);
                }
                // Cargo's own.
                "--bench" => {}
                _ => {
                    return Err(
                        format!("{word} is none of --arch ARCH, --gate, --save, --no-native, --native-only").into(),
                    );
                }
            }
        }
        if wishes.native_only {
            wishes.archs.clear();
        } else if wishes.archs.is_empty() {
            wishes.archs = HostArch::ALL.to_vec();
        }
        Ok(wishes)
    }
}

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without the word that `cargo bench` adds.
    if !std::env::args().any(|word| word == "--bench") {
        println!("measures nothing unless run by `cargo bench`");
        return ExitCode::SUCCESS;
    }
    match Wishes::parse(std::env::args().skip(1)).and_then(|wishes| run(&wishes)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints, compares. False if a gate closed.
fn run(wishes: &Wishes) -> Outcome<bool> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (scratch, results) = (root.join("target/bench"), root.join("benches/results"));
    fs::create_dir_all(&scratch)?;
    let mut latest = serde_json::Map::new();
    let mut reports = Vec::new();
    for arch in &wishes.archs {
        let report = emulated::measure(*arch, &scratch.join(arch.name()))?;
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
        let path = results.join(format!("{}.json", report.arch));
        fine &= against_committed(report, &path);
        if wishes.save {
            fs::create_dir_all(&results)?;
            fs::write(&path, serde_json::to_string_pretty(report)? + "\n")?;
        }
    }
    Ok(fine || !wishes.gate)
}

/// Compares with the figures in a file. False if a figure is worse; what cannot be compared is not worse.
fn against_committed(report: &Report, path: &PathBuf) -> bool {
    let committed = fs::read(path).map_err(|error| error.to_string());
    let committed = committed
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error: serde_json::Error| error.to_string()));
    match committed.and_then(|committed| report::compare(&committed, report)) {
        Ok(changes) => {
            table::print_changes(&report.arch, &changes);
            !changes.iter().any(report::Change::is_worse)
        }
        Err(reason) => {
            println!("\n{}: not compared with {}: {reason}", report.arch, path.display());
            true
        }
    }
}
