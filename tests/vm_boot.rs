//! Boots of a stock kernel: every protocol, sizes of the machine, the command line, the command's output and exit code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod tiny;
}
use coracle_arch::{Arch, Host};
use flate2::{Compression, write::GzEncoder};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};
use support::{
    run::{Ended, Run, bundle},
    tiny::Folder,
};

/// What the guest tells of itself: CPUs that are online, kB of memory.
const FACTS: &str = "echo CPUS $(grep -c ^processor /proc/cpuinfo); grep MemTotal /proc/meminfo";

/// A config for a machine of the bundle, with more keys of `boot-source`; for what no option of the command line says.
fn config(folder: &Path, boot: &str) -> PathBuf {
    let config = folder.join("vm.json");
    let text = format!(r#"{{"boot-source": {{{boot}}}, "machine-config": {{"vcpu_count": 1, "mem_size_mib": 128}}}}"#);
    fs::write(&config, text).unwrap();
    config
}

/// Boots the bundle with an ELF protocol of choice.
fn boot_by(protocol: &str) -> Ended {
    let folder = Folder::new(protocol);
    let boot = format!(
        r#""kernel_bundle": "{}", "protocol": "{protocol}", "command": ["echo", "by {protocol}"]"#,
        bundle().display()
    );
    Run::new(["vm", "run"]).arg(config(&folder, &boot)).end()
}

/// Boots a kernel file with the bundle's initramfs. Nothing reports then: the exit code says power-off alone.
fn boot_file(kernel: &Path) -> Ended {
    let cmdline = format!("{} -- echo from the file", Host::DEFAULT_CMDLINE);
    let run = Run::new(["vm", "run", "--memory", "160M", "--cmdline", &cmdline, "--kernel"]);
    run.arg(kernel).arg("--initrd").arg(bundle().join("initramfs")).end()
}

#[test]
fn an_elf_kernel_boots_by_both_protocols() {
    if Host::NAME != "x86_64" {
        return; // other architectures have one protocol: the Image's
    }
    for protocol in ["linux64", "pvh"] {
        boot_by(protocol).code(0).shows(&format!("by {protocol}\n"));
    }
}

#[test]
fn a_compressed_kernel_boots() {
    let folder = Folder::new("compressed");
    let kernel = if Host::NAME == "x86_64" {
        bundle().join("bzImage")
    } else {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&fs::read(bundle().join("kernel")).unwrap()).unwrap();
        let path = folder.join("Image.gz");
        fs::write(&path, gzip.finish().unwrap()).unwrap();
        path
    };
    boot_file(&kernel).code(0).shows("from the file");
}

#[test]
fn a_kernel_file_boots_with_an_initrd() {
    boot_file(&bundle().join("kernel")).code(0).shows("from the file");
}

#[test]
fn output_and_exit_code_of_the_command_arrive() {
    for (script, code) in [
        ("echo out; echo err >&2; exit 0", 0),
        ("echo out; exit 3", 3),
        ("echo out; exit 255", 255),
        ("echo out; kill -9 $$", 128 + 9),
    ] {
        let ended = Run::guest(&[], script).end().code(code).shows("out\n");
        assert!(!script.contains("err") || ended.text().contains("err\n"));
    }
    Run::guest(&[], "no-such-program").end().code(127);
}

/// Memory that the guest calls its own: what it was given, less what its kernel keeps for itself.
#[track_caller]
fn has_memory(ended: &Ended, mib: u64) {
    let found = ended.number("MemTotal:") >> 10;
    let least = mib - mib / 16 - 56;
    assert!(found <= mib && found >= least, "{found} MiB of {mib}");
}

#[test]
fn all_vcpus_come_online_and_all_memory_is_seen() {
    // 5 GiB reach over the gap for devices below 4 GiB. Pages that the guest does not touch cost the host nothing.
    for (cpus, mib) in [(1, 128), (2, 1024), (8, 5120)] {
        let (cpus_text, memory) = (cpus.to_string(), format!("{mib}M"));
        let ended = Run::guest(&["--vcpus", &cpus_text, "--memory", &memory], FACTS)
            .end()
            .code(0);
        assert_eq!(ended.number("CPUS"), cpus);
        has_memory(&ended, mib);
    }
}

/// Debian's kernels do not fit into 32 MiB, which is the least that a machine may have (tiny guests run in it): the
/// refusal says so before anything starts, and a little more is enough.
#[test]
fn a_stock_kernel_needs_little_memory() {
    let refused = Run::guest(&["--memory", "32M"], FACTS).end().code(152);
    // Depending on the kernel's size it is the kernel or the initrd that finds no room.
    let ways_out = ["give the guest more memory", "raise machine-config.mem_size_mib"];
    assert!(
        ways_out.iter().any(|way| refused.errors.contains(way)),
        "{}",
        refused.errors
    );
    assert_eq!(refused.text(), "");
    let ended = Run::guest(&["--memory", "96M"], FACTS).end().code(0);
    has_memory(&ended, 96);
}

#[test]
fn a_long_command_line_arrives_whole_and_ends_as_given() {
    let (head, tail) = (
        format!("{} coracle.filler=", Host::DEFAULT_CMDLINE),
        " -- cat /proc/cmdline",
    );
    let filler: String = ('a'..='z')
        .cycle()
        .take(Host::MAX_CMDLINE - head.len() - tail.len())
        .collect();
    let cmdline = format!("{head}{filler}{tail}");
    assert!(cmdline.len() >= 2047);
    let run = |cmdline: &str| {
        Run::new(["vm", "run", "--memory", "128M", "--cmdline", cmdline, "--bundle"])
            .arg(bundle())
            .end()
    };
    run(&cmdline).code(0).shows(&format!("{cmdline}\n"));
    let refused = run(&format!("{cmdline}x")).code(152);
    assert!(refused.errors.contains("takes at most 2047"), "{}", refused.errors);
}
