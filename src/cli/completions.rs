//! `coracle completions`: what a shell needs to complete coracle's arguments, made from the arguments themselves.
use super::Outcome;
use clap_complete::Shell;
use std::io::{self, Write};

/// Arguments of `coracle completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    coracle completions bash > ~/.local/share/bash-completion/completions/coracle\n  \
    coracle completions fish > ~/.config/fish/completions/coracle.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints the completions of `command`.
pub(crate) fn run(arguments: &Completions, mut command: clap::Command) -> Outcome {
    // Made in memory first: the generator panics where writing fails.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "coracle", &mut script);
    io::stdout().write_all(&script)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, ValueEnum};

    #[test]
    fn every_shell_gets_the_verbs() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut super::super::Cli::command(), "coracle", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["doctor", "schema", "memory", "completions"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
