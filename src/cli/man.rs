//! `coracle man`: manual pages, one per verb, made from the arguments and their help.
use super::{Failure, Outcome, exit};
use clap::Command;
use std::{fs, path::PathBuf};

/// Arguments of `coracle man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder for the pages, which is created; `man -l FOLDER/coracle-vm-run.1` shows one of them
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes the pages of `command` and of all its verbs.
pub(crate) fn run(arguments: &Man, command: Command) -> Outcome {
    let folder = &arguments.folder;
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    written.map_err(|error| {
        let wish = format!(
            "cannot write manual pages to {}: {error}; give a folder that can be written",
            folder.display()
        );
        Failure::new(exit::GENERIC, wish)
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_verb_has_a_page_with_its_options() {
        let folder = std::env::temp_dir().join(format!("coracle-man-{}", std::process::id()));
        let man = Man { folder: folder.clone() };
        assert_eq!(run(&man, super::super::Cli::command()).unwrap(), 0);
        let page = fs::read_to_string(folder.join("coracle-vm-run.1")).unwrap();
        assert!(page.contains("coracle\\-vm\\-run") && page.contains("memory"), "{page}");
        assert!(folder.join("coracle.1").is_file() && folder.join("coracle-completions.1").is_file());
        assert!(!folder.join("coracle-help.1").exists() && !folder.join("coracle-vm-help.1").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
