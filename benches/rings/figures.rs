//! From runs to a line of the table.
#![allow(clippy::cast_precision_loss, reason = "counts of some seconds, far below 2^52")]
use crate::{
    Outcome, Wishes,
    scene::{Run, Scene},
};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path};

/// What one kind of request costs.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) depth: u64,
    pub(crate) bytes: u64,
    /// Requests in a second: the middle run, the slowest and the fastest.
    pub(crate) per_second: f64,
    pub(crate) slowest: f64,
    pub(crate) fastest: f64,
    /// Kicks for each request, in the middle run.
    pub(crate) kicks: f64,
    /// Exits of the vCPU for each request in the middle run, less those of a run without requests.
    pub(crate) exits: f64,
    /// KVM's other counters that moved, likewise.
    pub(crate) counters: BTreeMap<String, f64>,
}

/// Runs a scene as often as wished.
pub(crate) fn measure(scene: &Scene, folder: &Path, wishes: &Wishes) -> Outcome<Row> {
    let idle = scene.run(folder, 0)?;
    let mut runs = (0..wishes.runs)
        .map(|_| scene.run(folder, wishes.requests))
        .collect::<Outcome<Vec<Run>>>()?;
    runs.sort_by(|a, b| per_second(a).total_cmp(&per_second(b)));
    let (Some(slowest), Some(middle), Some(fastest)) = (runs.first(), runs.get(runs.len() / 2), runs.last()) else {
        return Err("no run".into());
    };
    let requests = middle.report.requests as f64;
    let mut counters: BTreeMap<String, f64> = middle
        .counters
        .iter()
        .map(|(name, count)| {
            let before = idle.counters.get(name).copied().unwrap_or(0);
            (name.clone(), (*count as f64 - before as f64) / requests)
        })
        .filter(|(_, count)| count.abs() >= 1e-4)
        .collect();
    Ok(Row {
        name: scene.name.clone(),
        depth: scene.order.depth,
        bytes: scene.order.bytes,
        per_second: per_second(middle),
        slowest: per_second(slowest),
        fastest: per_second(fastest),
        kicks: middle.report.kicks as f64 / requests,
        exits: counters.remove("exits").unwrap_or(0.0),
        counters,
    })
}

fn per_second(run: &Run) -> f64 {
    run.report.requests as f64 * run.tsc_khz as f64 * 1e3 / run.report.ticks.max(1) as f64
}

pub(crate) fn heading() {
    println!(
        "\n{:<28} {:>5} {:>11} {:>9} {:>9} {:>9} {:>9}",
        "requests", "depth", "requests/s", "slowest", "fastest", "kicks/req", "exits/req"
    );
}

impl Row {
    pub(crate) fn print(&self) {
        println!(
            "{:<28} {:>5} {:>11.0} {:>9.0} {:>9.0} {:>9.3} {:>9.3}",
            self.name, self.depth, self.per_second, self.slowest, self.fastest, self.kicks, self.exits
        );
    }
}

pub(crate) fn legend() {
    println!(
        "\nkicks are writes to the notify register, taken by an ioeventfd; exits are all of the polling vCPU, those for the \
         host's own interrupts included. Wall time, so the machine should be idle."
    );
}
