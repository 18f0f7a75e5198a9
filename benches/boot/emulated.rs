//! The deterministic part: every boot of the plan in an emulated host whose clock counts instructions.
use crate::{
    Outcome,
    plan::{self, Inputs, THERE},
};
use coracle::{
    bundle::Manifest,
    host::{Exec, HostArch, Once, Options},
};
use coracle_measure::{
    Answer,
    report::{FORMAT, Figures, Kernel, Report},
};
use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

/// How often each boot is measured. The first one finds cold caches and does not count.
const REPEATS: u32 = 3;

/// Wall time for all boots of one architecture, on a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);

/// Measures one architecture; `folder` takes what is made on the way.
pub(crate) fn measure(arch: HostArch, folder: &Path) -> Outcome<Report> {
    let inputs = Inputs::find(arch)?;
    let _ = fs::remove_dir_all(folder);
    let run = folder.join("run");
    fs::create_dir_all(&run)?;
    plan::write(&run, REPEATS)?;
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, plan::initramfs(&inputs.probe)?)?;
    let answer = folder.join("answer.json");
    let there = |name: &str| format!("{THERE}/{name}");
    let once = Once {
        exec: Exec {
            argv: vec![there("probe"), there("run/order.json"), there("answer.json")],
            env: Vec::new(),
            cwd: None,
            terminal: None,
        },
        stdin: Vec::new(),
        files_in: vec![
            (inputs.coracle, there("coracle")),
            (inputs.probe, there("probe")),
            (inputs.bundle.clone(), there("bundle")),
            (initramfs, there("initramfs")),
            (run, there("run")),
        ],
        files_out: vec![(there("answer.json"), answer.clone())],
        limit: LIMIT,
    };
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
    let answers: Vec<Answer> = serde_json::from_slice(&fs::read(&answer)?)?;
    let figures = |answer: &Answer| Some((answer.name.clone(), Figures::of(answer)?));
    let boots: Option<BTreeMap<_, _>> = answers.iter().map(figures).collect();
    let manifest = Manifest::read(&inputs.bundle)?;
    Ok(Report {
        format: FORMAT,
        arch: arch.name().to_string(),
        kernel: Kernel {
            version: manifest.kernel_version.clone(),
            sha256: manifest.files.get("kernel").map(|facts| facts.sha256.clone()),
        },
        boots: boots.ok_or("the probe took too few samples")?,
    })
}
