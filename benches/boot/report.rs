//! The figures of one architecture: how they come from samples, and how two reports compare. Pure data.
use crate::Outcome;
use coracle::bundle::Manifest;
use coracle_measure::{Answer, Sample};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Reports of another format are not compared.
pub(crate) const FORMAT: u32 = 1;

/// Differences up to this are not told from chance: what has nothing to do with the VMM, such as the length of a path,
/// moves figures by up to 0.3 %.
pub(crate) const THRESHOLD_PERCENT: f64 = 0.5;

/// All figures of one architecture.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) format: u32,
    pub(crate) arch: String,
    pub(crate) kernel: Kernel,
    /// By name of the boot.
    pub(crate) boots: BTreeMap<String, Figures>,
}

/// The guest's kernel: figures of different ones do not compare.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) version: Option<String>,
    pub(crate) sha256: Option<String>,
}

impl Kernel {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self {
            version: manifest.kernel_version.clone(),
            sha256: manifest.files.get("kernel").map(|facts| facts.sha256.clone()),
        }
    }
}

/// One kind of boot. Times in virtual ms, memory in KiB; each the mean of the runs that found warm caches.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// exec → first `KVM_RUN`, where it was measured.
    pub(crate) first_run_ms: Option<f64>,
    /// exec → the first line of the guest's user space.
    pub(crate) user_space_ms: f64,
    /// VM exits until then.
    pub(crate) exits: f64,
    /// Memory of the VMM beyond guest memory.
    pub(crate) rss_beyond: f64,
    pub(crate) pss_beyond: f64,
    pub(crate) anonymous_beyond: f64,
    /// What the guest took by then, and the part of it that no other guest can share.
    pub(crate) rss_guest: f64,
    pub(crate) anonymous_guest: f64,
    pub(crate) threads: f64,
    pub(crate) descriptors: f64,
    /// KVM's counters, exits by kind among them.
    pub(crate) counters: BTreeMap<String, f64>,
}

impl Figures {
    pub(crate) fn of(answer: &Answer) -> Outcome<Self> {
        let warm = answer.samples.get(1..).filter(|warm| !warm.is_empty());
        let warm = warm.ok_or_else(|| format!("{}: too few samples", answer.name))?;
        let mean = |figure: &dyn Fn(&Sample) -> f64| mean(warm.iter().map(figure));
        let memory = |kib: fn(&Sample) -> u64| mean(&|sample: &Sample| float(kib(sample)));
        let names = warm.iter().flat_map(|sample| sample.counters.keys());
        let counter = |name: &String| mean(&|sample: &Sample| float(sample.counters.get(name).copied().unwrap_or(0)));
        let counters: BTreeMap<_, _> = names.map(|name| (name.clone(), counter(name))).collect();
        Ok(Self {
            first_run_ms: answer.first_run_ms.get(1..).map(|warm| mean_of(warm)),
            user_space_ms: mean(&|sample: &Sample| sample.marker_ms),
            exits: counters.get("exits").copied().unwrap_or(0.0),
            rss_beyond: memory(|sample| sample.memory.rss_beyond),
            pss_beyond: memory(|sample| sample.memory.pss_beyond),
            anonymous_beyond: memory(|sample| sample.memory.anonymous_beyond),
            rss_guest: memory(|sample| sample.memory.rss_guest),
            anonymous_guest: memory(|sample| sample.memory.anonymous_guest),
            threads: memory(|sample| sample.threads),
            descriptors: memory(|sample| sample.descriptors),
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
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) boot: String,
    pub(crate) figure: &'static str,
    pub(crate) was: f64,
    pub(crate) is: f64,
}

impl Change {
    pub(crate) fn percent(&self) -> f64 {
        (self.is - self.was) / self.was * 100.0
    }

    pub(crate) fn is_worse(&self) -> bool {
        self.is > self.was
    }
}

/// The changes above the threshold; an error says why the two cannot be compared.
pub(crate) fn compare(was: &Report, is: &Report) -> Result<Vec<Change>, String> {
    if was.format != is.format {
        return Err(format!("format {} was written, {} is known", was.format, is.format));
    }
    if was.kernel != is.kernel {
        let version = |kernel: &Kernel| kernel.version.clone().unwrap_or_default();
        return Err(format!(
            "the guest's kernel was {} and is {}: not the same image",
            version(&was.kernel),
            version(&is.kernel)
        ));
    }
    let mut changes = Vec::new();
    for (boot, figures) in &is.boots {
        let Some(before) = was.boots.get(boot) else { continue };
        for ((figure, is), (_, was)) in figures.compared().into_iter().zip(before.compared()) {
            if let (Some(is), Some(was)) = (is, was) {
                let (boot, change) = (boot.clone(), (is - was).abs());
                if change > was * THRESHOLD_PERCENT / 100.0 {
                    changes.push(Change { boot, figure, was, is });
                }
            }
        }
    }
    Ok(changes)
}
