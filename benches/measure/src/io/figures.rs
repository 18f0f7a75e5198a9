//! The figures of all trials of one architecture: how they come from answers, and how two sets compare. Pure data.
use super::{Answer, Step};
use crate::report::{Change, Kernel};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Reports of another format are not compared.
pub const FORMAT: u32 = 1;

/// All figures of one architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// As `uname -m` names it.
    pub arch: String,
    /// What the guests booted.
    pub kernel: Kernel,
    /// By name.
    pub trials: BTreeMap<String, Trial>,
}

/// One VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Virtual ms from exec to the end of its work.
    pub done_ms: f64,
    /// VM exits until then.
    pub exits: u64,
    /// By name; of the second time that each ran.
    pub steps: BTreeMap<String, Figures>,
}

/// One step, on average of its operations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Virtual microseconds that an operation takes, by the guest's clock: thousands of instructions.
    pub k_instructions: f64,
    /// VM exits of an operation.
    pub exits: f64,
    /// MiB in a virtual second, of operations that move more than a byte.
    pub mib_per_s: Option<f64>,
    /// VM exits since exec when it was over.
    pub exits_until: u64,
}

impl Figures {
    fn of(step: &Step) -> Self {
        let measured = &step.measured;
        let operations = float(measured.operations.max(1));
        let seconds = float(measured.nanoseconds.max(1)) / 1e9;
        let mib = float(measured.operations * measured.size) / f64::from(1 << 20);
        Self {
            k_instructions: rounded(float(measured.nanoseconds) / operations / 1e3),
            exits: rounded(float(step.exits) / operations),
            mib_per_s: (measured.size > 1).then(|| rounded(mib / seconds)),
            exits_until: step.exits_until,
        }
    }
}

impl Trial {
    /// The last of the steps of each name.
    pub fn of(answer: &Answer) -> Self {
        let steps = answer.steps.iter();
        Self {
            done_ms: rounded(answer.done_ms),
            exits: answer.exits,
            steps: steps
                .map(|step| (step.measured.step.clone(), Figures::of(step)))
                .collect(),
        }
    }

    /// The figures that are compared. Of each, less is better.
    fn compared(&self) -> Vec<(String, &'static str, f64)> {
        let mut figures = Vec::new();
        for (name, step) in &self.steps {
            figures.push((name.clone(), "k-instructions", step.k_instructions));
            figures.push((name.clone(), "exits", step.exits));
        }
        if figures.is_empty() {
            figures.push((String::new(), "done, ms", self.done_ms));
            figures.push((String::new(), "exits", float(self.exits)));
        }
        figures
    }
}

/// The changes above the threshold; an error says why the two cannot be compared. Trials that either does not have are
/// left out, and so are those of other VMMs: nobody here can make them worse.
pub fn compare(was: &Report, is: &Report) -> Result<Vec<Change>, String> {
    if was.format != is.format {
        return Err(format!("format {} was written, {} is known", was.format, is.format));
    }
    is.kernel.must_be(&was.kernel)?;
    let mut changes = Vec::new();
    for (name, trial) in is.trials.iter().filter(|(name, _)| name.contains("coracle")) {
        let Some(before) = was.trials.get(name) else { continue };
        let before = before.compared();
        for (step, figure, is) in trial.compared() {
            let was = before.iter().find(|(its, kind, _)| (its, *kind) == (&step, figure));
            let subject = format!("{name} {step}");
            changes.extend(was.and_then(|(_, _, was)| Change::above_threshold(subject.trim(), figure, *was, is)));
        }
    }
    Ok(changes)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts, bytes and nanoseconds, far below 2^53"
)]
fn float(count: u64) -> f64 {
    count as f64
}

/// To four decimals: an exit per hundred operations has to show.
fn rounded(figure: f64) -> f64 {
    (figure * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::{super::Measured, *};

    fn step(name: &str, nanoseconds: u64, exits: u64) -> Step {
        Step {
            measured: Measured {
                step: name.to_string(),
                operations: 64,
                size: 1 << 20,
                nanoseconds,
            },
            exits,
            exits_until: 5000 + exits,
        }
    }

    fn report(trial: &str, nanoseconds: u64) -> Report {
        let answer = Answer {
            steps: vec![step("seq_read", 9_000_000_000, 999), step("seq_read", nanoseconds, 96)],
            ..Answer::default()
        };
        Report {
            format: FORMAT,
            arch: "x86_64".to_string(),
            kernel: Kernel::default(),
            trials: BTreeMap::from([(trial.to_string(), Trial::of(&answer))]),
        }
    }

    #[test]
    fn figures_are_of_the_second_time_and_by_operation() {
        let report = report("disk coracle", 32_000_000);
        let figures = &report.trials["disk coracle"].steps["seq_read"];
        let expected = Figures {
            k_instructions: 500.0,
            exits: 1.5,
            mib_per_s: Some(2000.0),
            exits_until: 5096,
        };
        assert_eq!(*figures, expected);
    }

    #[test]
    fn more_instructions_are_worse_but_not_those_of_another_vmm() {
        let changes = compare(&report("disk coracle", 32_000_000), &report("disk coracle", 32_200_000)).unwrap();
        let told: Vec<_> = changes
            .iter()
            .map(|c| (c.subject.as_str(), c.figure, c.is_worse()))
            .collect();
        assert_eq!(told, [("disk coracle seq_read", "k-instructions", true)]);
        assert_eq!(
            compare(&report("disk coracle", 32_000_000), &report("disk coracle", 32_100_000)),
            Ok(Vec::new())
        );
        assert_eq!(
            compare(&report("disk QEMU", 1_000_000), &report("disk QEMU", 2_000_000)),
            Ok(Vec::new())
        );
    }

    #[test]
    fn a_trial_without_steps_is_compared_as_a_whole() {
        let of = |done_ms| {
            let answer = Answer {
                done_ms,
                exits: 4000,
                ..Answer::default()
            };
            let trials = BTreeMap::from([("console coracle".to_string(), Trial::of(&answer))]);
            Report {
                trials,
                ..report("", 1)
            }
        };
        let changes = compare(&of(1400.0), &of(1300.0)).unwrap();
        assert_eq!(changes.len(), 1);
        assert!(!changes[0].is_worse());
    }
}
