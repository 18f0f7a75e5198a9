//! What PID 1 of a guest tells the VMM over the agent port (`ttyS1`), one frame each.
use serde::{Deserialize, Serialize};

/// A report of PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The guest is up and about to run its command.
    Ready(Timings),
    /// The command ended; the guest powers off next. 128 + n if signal n ended it.
    Exit {
        /// Exit code, as a shell counts.
        code: u8,
    },
    /// PID 1 could not do its work; the text names the step. The guest powers off next.
    Failed {
        /// What failed and why.
        reason: String,
    },
}

/// Microseconds on the guest's boot clock (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// PID 1 started.
    pub init: u64,
    /// All modules were loaded.
    pub modules: u64,
    /// The command is about to run.
    pub ready: u64,
}
