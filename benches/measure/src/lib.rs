//! What the benchmarks of whole VMs and the probe say to each other, and what the probe reads out of the kernel's text
//! files.
//!
//! Pure data and parsing, on any thread. The probe itself is the program of this package; it does all the I/O.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub mod io;
pub mod report;
pub mod smaps;
pub mod trace;

/// What the guest's first program writes to its console, at once. Short, since each byte is an exit.
pub const MARKER: &str = "@user@";

/// One kind of boot, to be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Its name in the answer.
    pub name: String,
    /// The VMM's command line. The guest's console has to be on its standard output.
    pub argv: Vec<String>,
    /// The boot is over when a line of the console contains this.
    pub marker: String,
    /// Guest memory in MiB, to tell it from the VMM's own.
    pub memory_mib: u64,
    /// How often it is booted to the marker.
    pub boots: u32,
    /// How often it is started up to the first `KVM_RUN` alone.
    pub starts: u32,
    /// Whether it is booted once more, to count exits by their reason.
    pub reasons: bool,
}

/// What became of a [`Boot`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// One per boot to the marker.
    pub samples: Vec<Sample>,
    /// Milliseconds from exec to the first `KVM_RUN`, one per start.
    pub first_run_ms: Vec<f64>,
    /// Exits up to the marker by their reason in the kernel's trace: on x86_64 the exit code, on aarch64 KVM's code and
    /// the class of the exception (`2 36`).
    pub reasons: BTreeMap<String, u64>,
}

/// One boot, looked at when the marker came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds from exec to the marker.
    pub marker_ms: f64,
    /// KVM's counters of this VM that are not zero.
    pub counters: BTreeMap<String, u64>,
    /// Memory of the VMM's process.
    pub memory: Memory,
    /// Its threads.
    pub threads: u64,
    /// Its open descriptors.
    pub descriptors: u64,
}

/// Memory of a VMM, split into guest memory and all else. KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, beyond guest memory.
    pub rss_beyond: u64,
    /// The proportional share of that: shared pages count by the number of their users.
    pub pss_beyond: u64,
    /// Anonymous, beyond guest memory.
    pub anonymous_beyond: u64,
    /// Resident guest memory.
    pub rss_guest: u64,
    /// The anonymous part of it, which no other guest can share.
    pub anonymous_guest: u64,
}
