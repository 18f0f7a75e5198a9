//! Virtio queues on this machine's own KVM: a guest without a kernel, which runs in ring 3 and polls, drives one device.
//!
//! `cargo bench --bench rings -- [--runs N] [--requests N] [--only WORD]... [--no-event-idx]`, which `make bench-rings` calls.
//! For x86_64 alone: the guest is machine code. A report, not a test: it fails only if it cannot measure.
mod disk;
mod figures;
mod network;
mod scene;
mod scenes;
mod stats;

use coracle::host::kvm_kind;
use network::Tap;
use scene::{Device, Scene};
use serde_json::json;
use std::{error::Error, fs, path::PathBuf, process::ExitCode};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the user wants.
#[derive(Debug)]
struct Wishes {
    /// Runs of each line; the middle one is shown.
    runs: usize,
    requests: u64,
    /// Only lines whose names contain one of these.
    only: Vec<String>,
    event_idx: bool,
}

impl Wishes {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut wishes = Self {
            runs: 5,
            requests: 50_000,
            only: Vec::new(),
            event_idx: true,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a value"));
            match word.as_str() {
                "--runs" => wishes.runs = value()?.parse()?,
                "--requests" => wishes.requests = value()?.parse()?,
                "--only" => wishes.only.push(value()?),
                "--no-event-idx" => wishes.event_idx = false,
                // Cargo's own.
                "--bench" => {}
                _ => {
                    return Err(
                        format!("{word} is none of --runs N, --requests N, --only WORD, --no-event-idx").into(),
                    );
                }
            }
        }
        if wishes.runs == 0 || wishes.requests == 0 {
            return Err("--runs and --requests take numbers from 1 on".into());
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rings: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be measured.
fn wanted(wishes: &Wishes) -> Vec<Scene> {
    let mut scenes = scenes::all(wishes.event_idx);
    scenes.retain(|scene| wishes.only.is_empty() || wishes.only.iter().any(|word| scene.name.contains(word.as_str())));
    scenes
}

fn run(wishes: &Wishes) -> Outcome<()> {
    if coracle_ring3::IMAGE.is_empty() {
        return Err("the guest of this benchmark is for x86_64 alone".into());
    }
    let scratch = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench/rings");
    fs::create_dir_all(&scratch)?;
    let mut scenes = wanted(wishes);
    let tap = if scenes.iter().any(|scene| scene.device == Device::Tap) {
        Some(Tap::make())
    } else {
        None
    };
    if let Some(Err(error)) = &tap {
        println!("not measured with a TAP interface, which takes root's rights: {error}");
        scenes.retain(|scene| scene.device != Device::Tap);
    }
    let kvm = kvm_kind().to_string();
    println!(
        "{} requests, the middle of {} runs; KVM: {kvm}",
        wishes.requests, wishes.runs
    );
    figures::heading();
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for scene in scenes {
        match figures::measure(&scene, &scratch, wishes) {
            Ok(row) => {
                row.print();
                rows.push(row);
            }
            Err(error) => failures.push(format!("{}, depth {}: {error}", scene.name, scene.order.depth)),
        }
    }
    figures::legend();
    let report = json!({
        "kvm": kvm,
        "requests": wishes.requests,
        "runs": wishes.runs,
        "event_idx": wishes.event_idx,
        "optimised": !cfg!(debug_assertions),
        "rows": rows,
    });
    let path = scratch.join("latest.json");
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("kept in {}", path.display());
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("not measured:\n{}", failures.join("\n")).into())
}
