//! Whole-VM benchmarks on the deterministic clock of the emulated host: boots, and the I/O of guests. Starts on this
//! machine's own KVM as well.
//!
//! `cargo bench --bench vm -- boot|io [OPTION]...`, which `make bench` and `make bench-io` call with everything built. A
//! report, not a test: it fails if it cannot measure, or with `--gate` if a figure got worse.
mod boot;
mod committed;
mod emulated;
mod io;

use coracle::host::HostArch;
use std::{error::Error, fs, path::PathBuf, process::ExitCode};

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "boot or io, then any of --arch ARCH, --gate, --save; for boot --no-native or --native-only; for io \
    --only PART-OF-A-NAME";

/// What the user wants.
#[derive(Debug, Default)]
struct Wishes {
    io: bool,
    archs: Vec<HostArch>,
    /// Fail if a figure is worse than the committed one.
    gate: bool,
    /// Keep the figures as those that later ones are compared with.
    save: bool,
    no_native: bool,
    native_only: bool,
    /// Only trials with this in their name.
    only: Option<String>,
}

impl Wishes {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut wishes = Self::default();
        let mut kind = None;
        while let Some(word) = words.next() {
            match (word.as_str(), kind) {
                ("boot" | "io", None) => kind = Some(word == "io"),
                ("--gate", _) => wishes.gate = true,
                ("--save", _) => wishes.save = true,
                ("--no-native", Some(false)) => wishes.no_native = true,
                ("--native-only", Some(false)) => wishes.native_only = true,
                ("--only", Some(true)) => wishes.only = Some(words.next().ok_or("--only takes a part of a name")?),
                ("--arch", _) => {
                    let name = words.next().unwrap_or_default();
                    let arch = HostArch::from_name(&name).ok_or("--arch takes x86_64 or aarch64")?;
                    wishes.archs.push(arch);
                }
                // Cargo's own.
                ("--bench", _) => {}
                _ => return Err(format!("{word} is out of place: give {USAGE}").into()),
            }
        }
        wishes.io = kind.ok_or_else(|| format!("give {USAGE}"))?;
        if wishes.save && wishes.only.is_some() {
            return Err("--save keeps all figures of an architecture, --only measures some: leave one out".into());
        }
        if wishes.native_only {
            wishes.archs.clear();
        } else if wishes.archs.is_empty() {
            wishes.archs = HostArch::ALL.to_vec();
        }
        Ok(wishes)
    }
}

fn main() -> ExitCode {
    // `cargo test --benches` runs this too, without the word that `cargo bench` adds.
    if !std::env::args().any(|word| word == "--bench") {
        println!("measures nothing unless run by `cargo bench`");
        return ExitCode::SUCCESS;
    }
    let measured = Wishes::parse(std::env::args().skip(1)).and_then(|wishes| {
        let scratch = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&scratch)?;
        let fine = if wishes.io {
            io::run(&wishes, &scratch.join("io"))
        } else {
            boot::run(&wishes, &scratch)
        };
        Ok(fine? || !wishes.gate)
    });
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
