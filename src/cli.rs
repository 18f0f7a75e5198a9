//! The command line: one module per verb, each with its arguments and a `run` that answers with an exit code.
use clap::{CommandFactory, Parser, Subcommand};
use std::{error::Error, process::ExitCode};

mod completions;
mod doctor;
mod host;
mod kernel;
mod logger;
mod man;
mod vm;

/// A light VMM on KVM: boots Linux microVMs from a JSON config.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run, check and describe microVMs
    #[command(subcommand)]
    Vm(vm::VmVerb),
    /// Start and use the emulated host, which offers KVM on machines that have none
    #[command(subcommand)]
    Host(host::Host),
    /// Make kernel bundles: kernel, initramfs and manifest
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Show what this machine can do, and the remedy for what it cannot
    Doctor(doctor::Doctor),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Write the manual pages into a folder
    Man(man::Man),
}

/// Exit codes beyond a guest command's own, as Firecracker counts them.
pub(crate) mod exit {
    use coracle::{
        builder::{BuildError, DeviceError},
        kvm::KvmError,
    };

    /// Something went wrong that has no code of its own.
    pub(crate) const GENERIC: u8 = 1;
    /// The config breaks a rule.
    pub(crate) const BAD_CONFIG: u8 = 152;
    /// The command line breaks a rule.
    pub(crate) const BAD_ARGUMENTS: u8 = 153;

    /// The code for a VM that could not be built: the config's, where a value of it is the reason.
    pub(crate) fn code_of(error: &BuildError) -> u8 {
        match error {
            BuildError::Boot(_)
            | BuildError::Kvm(KvmError::Vcpus { .. })
            | BuildError::Device(DeviceError::Disk { .. } | DeviceError::Drive { .. }) => BAD_CONFIG,
            _ => GENERIC,
        }
    }
}

/// An error on its way to the user, with the exit code of the process.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    error: Box<dyn Error>,
}

impl Failure {
    /// An error that ends the process with `code`.
    pub(crate) fn new(code: u8, error: impl Into<Box<dyn Error>>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(exit::GENERIC, error)
    }
}

/// What a verb answers: the exit code of the process.
pub(crate) type Outcome = Result<u8, Failure>;

/// Parses the arguments, runs the verb, prints an error with its causes once.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to standard output.
            let code = if error.use_stderr() { exit::BAD_ARGUMENTS } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let outcome = match cli.verb {
        Verb::Vm(verb) => vm::run(verb),
        Verb::Host(verb) => host::run(verb),
        Verb::Kernel(verb) => kernel::run(verb),
        Verb::Doctor(verb) => doctor::run(&verb),
        Verb::Completions(verb) => completions::run(&verb, Cli::command()),
        Verb::Man(verb) => man::run(&verb, Cli::command()),
    };
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        eprintln!("coracle: {}", failure.error);
        let mut cause = failure.error.source();
        while let Some(error) = cause {
            eprintln!("  because: {error}");
            cause = error.source();
        }
        failure.code
    }))
}
