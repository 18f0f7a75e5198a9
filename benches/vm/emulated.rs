//! Runs the probe in an emulated host whose clock counts instructions. Starts that host, on the caller's thread.
use crate::Outcome;
use coracle::{
    bundle::Manifest,
    host::{Exec, HostArch, Once, Options},
};
use coracle_measure::report::Kernel;
use serde::de::DeserializeOwned;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where everything lies in the emulated host.
pub(crate) const THERE: &str = "/bench";

/// Guest memory of every VM.
pub(crate) const MEMORY_MIB: u64 = 256;

/// The command line that every VMM can be measured with: no option in it is made for one.
pub(crate) const PLAIN: &str = "console=ttyS0 reboot=k panic=-1 nokaslr";

/// Wall time for everything on one architecture, on a busy machine.
const LIMIT: Duration = Duration::from_secs(2400);

/// The programs and files of one architecture, as `make bench` builds them.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) arch: HostArch,
    pub(crate) coracle: PathBuf,
    pub(crate) probe: PathBuf,
    pub(crate) bundle: PathBuf,
}

impl Inputs {
    /// Finds them, or says which one is missing.
    pub(crate) fn find(arch: HostArch) -> Outcome<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let triple = format!("{arch}-unknown-linux-gnu");
        let built = if arch.is_native() {
            target.clone()
        } else {
            target.join("cross")
        };
        let inputs = Self {
            arch,
            coracle: if arch.is_native() {
                env!("CARGO_BIN_EXE_coracle").into()
            } else {
                built.join(&triple).join("release/coracle")
            },
            probe: built.join(&triple).join("guest/coracle-probe"),
            bundle: target.join("bundle").join(arch.name()),
        };
        for file in [&inputs.coracle, &inputs.probe, &inputs.bundle.join("manifest.json")] {
            if !file.is_file() {
                return Err(format!("there is no {}: `make bench` makes it", file.display()).into());
            }
        }
        Ok(inputs)
    }

    /// What its guests boot.
    pub(crate) fn kernel(&self) -> Outcome<Kernel> {
        let manifest = Manifest::read(&self.bundle)?;
        Ok(Kernel {
            version: manifest.kernel_version.clone(),
            sha256: manifest.files.get("kernel").map(|facts| facts.sha256.clone()),
        })
    }

    /// Runs the probe with `verb` on the order in `run/order.json` of `folder`, where its answer is left too. `more` are
    /// files that it needs besides that folder: here, and the name there.
    pub(crate) fn probe<A: DeserializeOwned>(
        &self,
        verb: &str,
        folder: &Path,
        more: Vec<(PathBuf, String)>,
    ) -> Outcome<A> {
        let answer = folder.join("answer.json");
        let there = |name: &str| format!("{THERE}/{name}");
        let mut files_in = vec![
            (self.coracle.clone(), there("coracle")),
            (self.probe.clone(), there("probe")),
            (self.bundle.clone(), there("bundle")),
            (folder.join("run"), there("run")),
        ];
        files_in.extend(more.into_iter().map(|(here, name)| (here, there(&name))));
        let argv = vec![
            there("probe"),
            verb.to_string(),
            there("run/order.json"),
            there("answer.json"),
        ];
        let once = Once {
            exec: Exec {
                argv,
                env: Vec::new(),
                cwd: None,
                terminal: None,
            },
            stdin: Vec::new(),
            files_in,
            files_out: vec![(there("answer.json"), answer.clone())],
            limit: LIMIT,
        };
        let arch = self.arch;
        let progress = |text: &str| eprintln!("{arch}: {text}");
        // The figures come in a file; what the probe says meanwhile is for whoever waits.
        let code = once.run(
            arch,
            &Options::default(),
            &progress,
            (&mut io::stderr(), &mut io::stderr()),
        )?;
        if code != 0 {
            return Err(format!("the probe ended with exit code {code}").into());
        }
        Ok(serde_json::from_slice(&fs::read(&answer)?)?)
    }
}
