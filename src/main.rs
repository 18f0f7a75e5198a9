//! The command line of coracle.
use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
