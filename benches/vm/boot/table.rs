//! Tables for people. Writes to standard output alone.
use super::native::Native;
use coracle_measure::report::{Figures, Report};

/// What a boot's name stands for.
const MEANINGS: &[(&str, &str)] = &[
    (
        "quiet",
        "plain command line with `quiet`, kernel_load as coracle chooses",
    ),
    ("verbose", "the same without `quiet`"),
    ("copy", "quiet, kernel_load copy"),
    ("map", "quiet, kernel_load map"),
    ("defaults", "coracle's default command line"),
    ("product", "kernel bundle and defaults, up to PID 1's ready line"),
];

pub(crate) fn print(report: &Report) {
    let kernel = report.kernel.version.as_deref().unwrap_or("?");
    println!(
        "\n{}, guest kernel {kernel}; virtual ms (a million instructions), KiB",
        report.arch
    );
    println!(
        "{:<9} {:>13} {:>11} {:>7} {:>9} {:>9} {:>9} {:>10} {:>10}",
        "boot", "first KVM_RUN", "user space", "exits", "RSS over", "PSS over", "anon over", "guest RSS", "guest anon"
    );
    let known = MEANINGS
        .iter()
        .filter_map(|(name, _)| Some((*name, report.boots.get(*name)?)));
    for (name, f) in known {
        let first = f.first_run_ms.map_or_else(|| "-".to_string(), |ms| format!("{ms:.2}"));
        println!(
            "{name:<9} {first:>13} {:>11.2} {:>7.0} {:>9.0} {:>9.0} {:>9.0} {:>10.0} {:>10.0}",
            f.user_space_ms, f.exits, f.rss_beyond, f.pss_beyond, f.anonymous_beyond, f.rss_guest, f.anonymous_guest
        );
    }
    println!("exits by kind");
    for (name, _) in MEANINGS {
        if let Some(figures) = report.boots.get(*name).filter(|f| !f.kinds.is_empty()) {
            println!("{name:<9} {}", kinds(figures));
        }
    }
}

/// The most frequent first.
fn kinds(figures: &Figures) -> String {
    let mut kinds: Vec<_> = figures.kinds.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let words = kinds.iter().map(|(kind, count)| format!("{kind} {count}"));
    words.collect::<Vec<_>>().join(", ")
}

pub(crate) fn legend() {
    println!();
    for (name, meaning) in MEANINGS {
        println!("{name:<9} {meaning}");
    }
}

pub(crate) fn print_native(native: &Native) {
    println!(
        "\nnatively, exec to the guest's first byte, wall ms: median {:.2} of {} (min {:.2}, max {:.2}); KVM: {}",
        native.median_ms, native.runs, native.min_ms, native.max_ms, native.kvm
    );
}
