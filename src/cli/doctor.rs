//! `coracle doctor`.
use super::Outcome;
use coracle::doctor;

/// The options of `coracle doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the table; the answer is 0 if a VM can be run some way.
pub(crate) fn run(options: &Doctor) -> Outcome {
    let report = doctor::examine();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &report.checks {
            let mark = if check.ok { '✓' } else { '✗' };
            println!("{mark} {:<width$}  {}", check.name, check.found);
            if let Some(remedy) = &check.remedy {
                println!("  {:<width$}  → {remedy}", "");
            }
        }
        let verdict = if report.can_run {
            "VMs can run on this machine."
        } else {
            "VMs cannot run on this machine yet."
        };
        println!("\n{verdict}");
    }
    Ok(u8::from(!report.can_run))
}
