//! A table for people. Writes to standard output alone.
use coracle_measure::io::figures::{Figures, Report};

pub(super) fn print(report: &Report) {
    let kernel = report.kernel.version.as_deref().unwrap_or("?");
    println!(
        "\n{}, guest kernel {kernel}; each by operation, a virtual second is 1 000 000 k-instructions",
        report.arch
    );
    println!(
        "{:<28} {:<13} {:>14} {:>9} {:>9} {:>11}",
        "trial", "step", "k-instructions", "exits", "MiB/s", "exits until"
    );
    for (name, trial) in &report.trials {
        for (step, figures) in &trial.steps {
            println!("{name:<28} {step:<13} {}", row(figures));
        }
        println!(
            "{name:<28} {:<13} {:>14.1} {:>9} {:>9} {:>11}",
            "all, ms", trial.done_ms, "", "", trial.exits
        );
    }
}

fn row(figures: &Figures) -> String {
    let mib = figures.mib_per_s.map_or_else(String::new, |mib| format!("{mib:.1}"));
    format!(
        "{:>14.2} {:>9.3} {mib:>9} {:>11}",
        figures.k_instructions, figures.exits, figures.exits_until
    )
}
