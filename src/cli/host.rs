//! `coracle host`.
use super::Outcome;

/// The verbs of `coracle host`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Host {}

/// Runs one of them.
pub(crate) fn run(verb: Host) -> Outcome {
    match verb {}
}
