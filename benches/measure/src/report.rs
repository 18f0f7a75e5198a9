//! The figures of one architecture: how they come from samples, and how two reports compare. Pure data.
use crate::{Answer, Sample};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Reports of another format are not compared.
pub const FORMAT: u32 = 1;

/// Differences up to this are not told from chance: what has nothing to do with the VMM, such as the length of a path,
/// moves figures by up to 0.3 %.
pub const THRESHOLD_PERCENT: f64 = 0.5;

/// All figures of one architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// As `uname -m` names it.
    pub arch: String,
    /// What the guests booted.
    pub kernel: Kernel,
    /// By name of the boot.
    pub boots: BTreeMap<String, Figures>,
}

/// The guest's kernel: figures of different ones do not compare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its release.
    pub version: Option<String>,
    /// Of its file.
    pub sha256: Option<String>,
}

impl Kernel {
    /// An error unless it is the same image.
    pub(crate) fn must_be(&self, was: &Self) -> Result<(), String> {
        if self == was {
            return Ok(());
        }
        let version = |kernel: &Self| kernel.version.clone().unwrap_or_default();
        Err(format!(
            "the guest's kernel was {} and is {}: not the same image",
            version(was),
            version(self)
        ))
    }
}

/// One kind of boot. Times in virtual ms, memory in KiB; each the mean of the runs that found warm caches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// exec → first `KVM_RUN`, where it was measured.
    pub first_run_ms: Option<f64>,
    /// exec → the first line of the guest's user space.
    pub user_space_ms: f64,
    /// VM exits until then.
    pub exits: f64,
    /// Resident memory of the VMM beyond guest memory.
    pub rss_beyond: f64,
    /// The proportional share of that.
    pub pss_beyond: f64,
    /// The anonymous part of it.
    pub anonymous_beyond: f64,
    /// Resident guest memory.
    pub rss_guest: f64,
    /// The part of it that no other guest can share.
    pub anonymous_guest: f64,
    /// Threads of the VMM.
    pub threads: f64,
    /// Its open descriptors.
    pub descriptors: f64,
    /// Exits by kind, where they were counted.
    pub kinds: BTreeMap<String, u64>,
    /// KVM's counters.
    pub counters: BTreeMap<String, f64>,
}

impl Figures {
    /// The means of all samples but the first; `None` if there are no others.
    pub fn of(answer: &Answer) -> Option<Self> {
        let warm = answer.samples.get(1..).filter(|warm| !warm.is_empty())?;
        let starts = answer.first_run_ms.get(1..).filter(|warm| !warm.is_empty());
        let mean = |figure: &dyn Fn(&Sample) -> f64| mean(warm.iter().map(figure));
        let memory = |kib: fn(&Sample) -> u64| mean(&|sample: &Sample| float(kib(sample)));
        let names = warm.iter().flat_map(|sample| sample.counters.keys());
        let counter = |name: &String| mean(&|sample: &Sample| float(sample.counters.get(name).copied().unwrap_or(0)));
        let counters: BTreeMap<_, _> = names.map(|name| (name.clone(), counter(name))).collect();
        Some(Self {
            first_run_ms: starts.map(mean_of),
            user_space_ms: mean(&|sample: &Sample| sample.marker_ms),
            exits: counters.get("exits").copied().unwrap_or(0.0),
            rss_beyond: memory(|sample| sample.memory.rss_beyond),
            pss_beyond: memory(|sample| sample.memory.pss_beyond),
            anonymous_beyond: memory(|sample| sample.memory.anonymous_beyond),
            rss_guest: memory(|sample| sample.memory.rss_guest),
            anonymous_guest: memory(|sample| sample.memory.anonymous_guest),
            threads: memory(|sample| sample.threads),
            descriptors: memory(|sample| sample.descriptors),
            kinds: kinds(&answer.reasons),
            counters,
        })
    }

    /// The figures that are compared. Of each, less is better.
    fn compared(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("first KVM_RUN, ms", self.first_run_ms),
            ("user space, ms", Some(self.user_space_ms)),
            ("exits", Some(self.exits)),
            ("RSS beyond guest memory, KiB", Some(self.rss_beyond)),
            ("anonymous beyond guest memory, KiB", Some(self.anonymous_beyond)),
        ]
    }
}

/// Reasons of exits as the kernel's trace has them, of AMD SVM (one number) and Arm EL2 (KVM's code and the exception's
/// class), and what they are.
const KINDS: &[(&str, &str)] = &[
    ("96", "host interrupt"),
    ("100", "interrupt window"),
    ("101", "control register"),
    ("114", "CPUID"),
    ("118", "INVD"),
    ("120", "HLT"),
    ("123", "port I/O"),
    ("124", "MSR"),
    ("137", "WBINVD"),
    ("141", "XSETBV"),
    ("1024", "nested page fault"),
    ("0 0", "host interrupt"),
    ("2 1", "WFI"),
    ("2 22", "HVC"),
    ("2 24", "system register"),
    ("2 32", "instruction abort"),
    ("2 36", "data abort"),
];

fn kinds(reasons: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for (reason, count) in reasons {
        let known = KINDS.iter().find(|(known, _)| *known == reason.as_str());
        let number: Option<u32> = reason.parse().ok();
        let kind = match (known, number) {
            (Some((_, kind)), _) => (*kind).to_string(),
            (None, Some(0..=31)) => "control register".to_string(),
            (None, Some(32..=63)) => "debug register".to_string(),
            (None, Some(64..=95)) => "exception".to_string(),
            _ => format!("reason {reason}"),
        };
        *kinds.entry(kind).or_default() += count;
    }
    kinds
}

#[allow(clippy::cast_precision_loss, reason = "counts and KiB, far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

fn mean_of(figures: &[f64]) -> f64 {
    mean(figures.iter().copied())
}

/// To three decimals: the clock of the trace has no more.
fn mean(figures: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = figures.fold((0.0, 0.0), |(count, sum), figure| (count + 1.0, sum + figure));
    (sum / f64::max(count, 1.0) * 1e3).round() / 1e3
}

/// A figure that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Of which boot or step.
    pub subject: String,
    /// What it is and its unit.
    pub figure: &'static str,
    /// Before.
    pub was: f64,
    /// Now.
    pub is: f64,
}

impl Change {
    /// A change, if it is one.
    pub(crate) fn above_threshold(subject: &str, figure: &'static str, was: f64, is: f64) -> Option<Self> {
        ((is - was).abs() > was * THRESHOLD_PERCENT / 100.0).then(|| Self {
            subject: subject.to_string(),
            figure,
            was,
            is,
        })
    }

    /// By how much, of what it was.
    pub fn percent(&self) -> f64 {
        (self.is - self.was) / self.was * 100.0
    }

    /// Of every figure less is better.
    pub fn is_worse(&self) -> bool {
        self.is > self.was
    }
}

/// The changes above the threshold; an error says why the two cannot be compared.
pub fn compare(was: &Report, is: &Report) -> Result<Vec<Change>, String> {
    if was.format != is.format {
        return Err(format!("format {} was written, {} is known", was.format, is.format));
    }
    is.kernel.must_be(&was.kernel)?;
    let mut changes = Vec::new();
    for (boot, figures) in &is.boots {
        let Some(before) = was.boots.get(boot) else { continue };
        for ((figure, is), (_, was)) in figures.compared().into_iter().zip(before.compared()) {
            if let (Some(is), Some(was)) = (is, was) {
                changes.extend(Change::above_threshold(boot, figure, was, is));
            }
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(marker_ms: f64, exits: u64) -> Sample {
        Sample {
            marker_ms,
            counters: BTreeMap::from([("exits".to_string(), exits)]),
            ..Sample::default()
        }
    }

    fn report(user_space_ms: f64, exits: f64) -> Report {
        let figures = Figures {
            first_run_ms: Some(20.0),
            user_space_ms,
            exits,
            ..Figures::default()
        };
        Report {
            format: FORMAT,
            arch: "x86_64".to_string(),
            kernel: Kernel::default(),
            boots: BTreeMap::from([("quiet".to_string(), figures)]),
        }
    }

    #[test]
    fn the_cold_run_does_not_count_and_a_counter_that_is_missing_is_zero() {
        let mut answer = Answer {
            samples: vec![sample(99.0, 900), sample(10.0, 50), sample(10.5, 51)],
            first_run_ms: vec![9.0, 2.0, 3.0],
            ..Answer::default()
        };
        answer.samples[2].counters.insert("hlt".to_string(), 3);
        let figures = Figures::of(&answer).unwrap();
        assert_eq!((figures.user_space_ms, figures.exits), (10.25, 50.5));
        assert_eq!(figures.first_run_ms, Some(2.5));
        assert_eq!(figures.counters.get("hlt"), Some(&1.5));
        answer.samples.truncate(1);
        assert_eq!(Figures::of(&answer), None);
    }

    #[test]
    fn reasons_have_names_and_those_of_one_kind_are_added() {
        let reasons = [("114", 5), ("0", 2), ("16", 3), ("2 36", 7), ("9999", 1)];
        let kinds = kinds(&reasons.map(|(reason, count)| (reason.to_string(), count)).into());
        let expected = [
            ("CPUID", 5),
            ("control register", 5),
            ("data abort", 7),
            ("reason 9999", 1),
        ];
        assert_eq!(kinds, expected.map(|(kind, count)| (kind.to_string(), count)).into());
    }

    #[test]
    fn only_changes_above_the_threshold_are_reported_and_tell_better_from_worse() {
        let was = report(1000.0, 2000.0);
        assert_eq!(compare(&was, &report(1005.0, 1990.0)).unwrap(), []);
        let changes = compare(&was, &report(1006.0, 1980.0)).unwrap();
        let told: Vec<_> = changes.iter().map(|c| (c.figure, c.is_worse())).collect();
        assert_eq!(told, [("user space, ms", true), ("exits", false)]);
        assert!((changes[1].percent() + 1.0).abs() < 1e-9);
    }

    #[test]
    fn figures_of_another_kernel_are_not_compared() {
        let mut was = report(1000.0, 2000.0);
        was.kernel.version = Some("6.1".to_string());
        assert!(compare(&was, &report(1.0, 1.0)).unwrap_err().contains("was 6.1"));
        let mut was = report(1000.0, 2000.0);
        was.format += 1;
        assert!(compare(&was, &report(1.0, 1.0)).is_err());
    }
}
