//! The peer: QEMU's microvm machine, the installed one with all its libraries, in the same host. Reads files and runs
//! `ldd`, starts no VM.
use super::plan::DISK;
use crate::{
    Outcome,
    emulated::{MEMORY_MIB, THERE},
};
use coracle::host::HostArch;
use coracle_measure::io::{TAP, Work};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const FIRMWARE: &str = "/usr/share/qemu/bios-microvm.bin";
/// Its place in the host, below what every file there is below.
const FOLDER: &str = "qemu";

/// What QEMU consists of.
#[derive(Debug)]
pub(super) struct Peer {
    /// For the names of its trials.
    pub(super) name: &'static str,
    /// Files that it needs: here, and the name there.
    pub(super) files: Vec<(PathBuf, String)>,
    loader: String,
}

/// Finds it, or says why there is none.
pub(super) fn find(arch: HostArch) -> Outcome<Peer> {
    if arch != HostArch::X86_64 || !arch.is_native() {
        return Err(format!("QEMU's microvm is a machine of x86_64, and no {arch} one is installed").into());
    }
    for file in [QEMU, FIRMWARE] {
        if !Path::new(file).is_file() {
            return Err(format!("there is no {file}: install qemu-system-x86").into());
        }
    }
    let output = Command::new("ldd").arg(QEMU).output()?;
    if !output.status.success() {
        return Err(format!("ldd failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    let mut files = vec![
        (PathBuf::from(QEMU), format!("{FOLDER}/qemu")),
        (
            PathBuf::from(FIRMWARE).canonicalize()?,
            format!("{FOLDER}/share/bios-microvm.bin"),
        ),
    ];
    let mut loader = None;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `libz.so.1 => /lib/… (0x…)`, or the loader's path alone.
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        let there = format!("{FOLDER}/lib/{name}");
        if name.starts_with("ld-linux") {
            loader = Some(format!("{THERE}/{there}"));
        }
        files.push((Path::new(path).canonicalize()?, there));
    }
    Ok(Peer {
        name: "QEMU microvm",
        files,
        loader: loader.ok_or("ldd names no loader")?,
    })
}

impl Peer {
    /// Its command line: the fewest devices that the work needs, in their modern form.
    pub(super) fn command(&self, work: &Work, cmdline: &str) -> Vec<String> {
        let there = |name: &str| format!("{THERE}/{name}");
        let memory = MEMORY_MIB.to_string();
        let (library, program) = (there(&format!("{FOLDER}/lib")), there(&format!("{FOLDER}/qemu")));
        let (share, kernel, initramfs) = (
            there(&format!("{FOLDER}/share")),
            there("bundle/kernel"),
            there("initramfs"),
        );
        let disk = format!("id=disk,file={DISK},format=raw,if=none");
        let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no");
        let mut words = vec![
            &*self.loader,
            "--library-path",
            &library,
            &program,
            "-L",
            &share,
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            &memory,
            "-smp",
            "1",
            "-machine",
            "microvm,x-option-roms=off,pit=off,pic=off,rtc=off",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-global",
            "virtio-mmio.force-legacy=false",
            "-kernel",
            &kernel,
            "-initrd",
            &initramfs,
            "-append",
            cmdline,
            "-chardev",
            "stdio,id=stdio",
        ];
        words.extend(match work {
            Work::Disk => vec![
                "-serial",
                "chardev:stdio",
                "-drive",
                &disk,
                "-device",
                "virtio-blk-device,drive=disk",
            ],
            Work::Net => vec![
                "-serial",
                "chardev:stdio",
                "-netdev",
                &tap,
                "-device",
                "virtio-net-device,netdev=net",
            ],
            // QEMU has no vsock of its own, only the host kernel's.
            Work::Vsock { .. } => Vec::new(),
            Work::Console => vec![
                "-device",
                "virtio-serial-device",
                "-device",
                "virtconsole,chardev=stdio",
            ],
        });
        words.into_iter().map(str::to_string).collect()
    }
}
