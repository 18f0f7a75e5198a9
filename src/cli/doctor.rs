//! `coracle doctor`.
use super::Outcome;

/// The options of `coracle doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {}

/// Prints the table.
pub(crate) fn run(_: &Doctor) -> Outcome {
    Ok(0)
}
