//! `coracle vm`.
use super::Outcome;

/// The verbs of `coracle vm`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Vm {}

/// Runs one of them.
pub(crate) fn run(verb: Vm) -> Outcome {
    match verb {}
}
