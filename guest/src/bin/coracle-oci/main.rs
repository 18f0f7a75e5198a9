//! `coracle-oci`: the container runtime by the command line that runc has, for the tools that call one.
//!
//! One thread: containers are forked from it.
mod arguments;
mod commands;
mod log;

use arguments::Command;
use clap::Parser as _;
use coracle_guest::container::executable;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let log = log::Log::new(&arguments);
    let outcome = match &arguments.command {
        Command::Create(_) | Command::Run(_) | Command::Exec(_) => executable::run_out_of_reach(),
        _ => Ok(()),
    };
    match outcome.and_then(|()| commands::run(arguments, &log)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&error.chain());
            ExitCode::from(error.exit_code())
        }
    }
}
