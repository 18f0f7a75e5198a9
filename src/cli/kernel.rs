//! `coracle kernel`.
use super::Outcome;

/// The verbs of `coracle kernel`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Kernel {}

/// Runs one of them.
pub(crate) fn run(verb: Kernel) -> Outcome {
    match verb {}
}
