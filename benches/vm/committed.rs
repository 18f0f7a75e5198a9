//! The figures in `benches/results`, which new ones are compared with. Reads and writes those files alone.
use crate::Outcome;
use coracle_measure::report::{Change, THRESHOLD_PERCENT};
use serde::{Serialize, de::DeserializeOwned};
use std::{fs, path::PathBuf};

/// The file for the figures of this name.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("benches/results")
        .join(format!("{name}.json"))
}

/// Compares with the committed figures and prints what changed. False if a figure is worse; what cannot be compared is
/// not worse.
pub(crate) fn compare<R: DeserializeOwned>(
    name: &str,
    report: &R,
    changes: impl Fn(&R, &R) -> Result<Vec<Change>, String>,
) -> bool {
    let path = path(name);
    let committed = fs::read(&path).map_err(|error| error.to_string());
    let committed = committed
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error: serde_json::Error| error.to_string()));
    match committed.and_then(|committed| changes(&committed, report)) {
        Ok(changes) => {
            print(name, &changes);
            !changes.iter().any(Change::is_worse)
        }
        Err(reason) => {
            println!("\n{name}: not compared with {}: {reason}", path.display());
            true
        }
    }
}

/// Keeps figures as the committed ones.
pub(crate) fn save(name: &str, report: &impl Serialize) -> Outcome<()> {
    let path = path(name);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, serde_json::to_string_pretty(report)? + "\n")?)
}

fn print(name: &str, changes: &[Change]) {
    if changes.is_empty() {
        println!("\n{name}: nothing differs from the committed figures by more than {THRESHOLD_PERCENT} %");
        return;
    }
    println!("\n{name}: differences of more than {THRESHOLD_PERCENT} % from the committed figures");
    for change in changes {
        println!(
            "{:<7} {:<24} {:<36} {:>10.2} -> {:>10.2} {:>+8.2} %",
            if change.is_worse() { "worse" } else { "better" },
            change.subject,
            change.figure,
            change.was,
            change.is,
            change.percent()
        );
    }
}
