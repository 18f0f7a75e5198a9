//! QEMU as the emulated host: its command line and its process, which dies with the process that started it.
#![allow(
    unsafe_code,
    reason = "the child asks the kernel to die with its parent, between fork and exec"
)]
use super::{
    HostArch, HostError,
    erratum::{Erratum, patched_copy},
    place::find_program,
};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// QEMU for one architecture.
#[derive(Debug)]
pub(crate) struct Qemu {
    arch: HostArch,
    /// What is run: on x86_64 the copy without the erratum.
    program: PathBuf,
    /// What is installed.
    pub(crate) installed: PathBuf,
    /// What the user should know.
    pub(crate) warning: Option<String>,
}

/// What differs between one machine and the next.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    pub(crate) console: &'a Path,
    pub(crate) memory_mib: u32,
    /// With a clock that counts instructions, and output of the second serial port to this file; else with a network.
    pub(crate) deterministic: Option<&'a Path>,
}

impl Qemu {
    /// Finds QEMU, and on x86_64 makes the copy without the erratum.
    pub(crate) fn find(arch: HostArch, cache: &Path) -> Result<Self, HostError> {
        let (program, package) = arch.qemu();
        let installed = find_program(program).ok_or(HostError::NoQemu { program, package })?;
        let erratum = match arch {
            HostArch::X86_64 => patched_copy(&installed, cache)?,
            HostArch::Aarch64 => Erratum::Patched(installed.clone()),
        };
        let (program, warning) = match erratum {
            Erratum::Patched(copy) => (copy, None),
            Erratum::Unknown => (
                installed.clone(),
                Some(format!(
                    "{} does not look as known, so its SVM erratum could not be worked around; nested guests may hang",
                    installed.display()
                )),
            ),
        };
        Ok(Self {
            arch,
            program,
            installed,
            warning,
        })
    }

    /// Starts the machine. Must be called on a thread that lives as long as the machine shall: the kernel kills QEMU
    /// when that thread ends, however it ends.
    pub(crate) fn start(&self, machine: &Machine<'_>) -> Result<Child, HostError> {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(machine));
        if let Some(modules) = self.module_folder() {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let parent = getpid();
        let bind = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::ErrorKind::NotFound.into())
            }
        };
        // SAFETY: between fork and exec `bind` makes two system calls and nothing else: no allocation, no lock.
        unsafe { command.pre_exec(bind) };
        command.spawn().map_err(|source| HostError::File {
            wish: "run",
            path: self.program.clone(),
            source,
        })
    }

    fn arguments(&self, machine: &Machine<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        let console = match self.arch {
            HostArch::X86_64 => {
                // Without ERMS and FSRM the kernel copies with wide moves; TCG runs `rep movsb` byte by byte.
                add(&["-M", "q35", "-cpu", "max,-erms,-fsrm"]);
                "ttyS0 tsc=reliable"
            }
            HostArch::Aarch64 => {
                add(&[
                    "-M",
                    "virt,virtualization=on,gic-version=3",
                    "-cpu",
                    "max,pauth-impdef=on",
                ]);
                "ttyAMA0"
            }
        };
        // More CPUs with multi-threaded TCG froze now and then.
        add(&["-smp", "1", "-m", &machine.memory_mib.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        let mut cmdline =
            format!("console={console} panic=-1 quiet loglevel=3 rdinit=/init mitigations=off coracle.role=host");
        if machine.deterministic.is_some() {
            add(&["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
            add(&["-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]);
            cmdline.push_str(" nokaslr norandmaps");
        } else {
            add(&["-accel", "tcg,thread=multi"]);
            add(&[
                "-netdev",
                "user,id=net,ipv6=off",
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
            ]);
        }
        add(&["-append", &cmdline]);
        let file = |path: &Path| {
            let mut value = OsString::from("file:");
            value.push(path);
            value
        };
        let mut pair = |option: &str, value: OsString| arguments.extend([OsString::from(option), value]);
        pair("-serial", file(machine.console));
        if let Some(output) = machine.deterministic {
            match self.arch {
                HostArch::X86_64 => pair("-serial", file(output)),
                HostArch::Aarch64 => {
                    // This machine has one serial port; the second one is on PCI.
                    let mut chardev = OsString::from("file,id=output,path=");
                    chardev.push(output);
                    pair("-chardev", chardev);
                    pair("-device", "pci-serial,chardev=output".into());
                }
            }
        }
        pair("-kernel", machine.kernel.into());
        pair("-initrd", machine.initrd.into());
        for folder in self.data_folders() {
            pair("-L", folder.into());
        }
        arguments
    }

    /// QEMU looks for its firmware beside itself; a copy must be told.
    fn data_folders(&self) -> Vec<PathBuf> {
        let prefix = self.prefix();
        ["share/seabios", "share/qemu", "share/qemu-efi-aarch64"]
            .map(|dir| prefix.join(dir))
            .into_iter()
            .filter(|dir| self.program != self.installed && dir.is_dir())
            .collect()
    }

    fn module_folder(&self) -> Option<PathBuf> {
        if self.program == self.installed {
            return None;
        }
        let lib = self.prefix().join("lib");
        let inner = fs::read_dir(&lib)
            .ok()?
            .flatten()
            .map(|entry| entry.path().join("qemu"));
        inner
            .chain([lib.join("qemu")])
            .find(|dir| dir.join("accel-tcg-x86_64.so").is_file())
    }

    fn prefix(&self) -> PathBuf {
        let real = fs::canonicalize(&self.installed).unwrap_or_else(|_| self.installed.clone());
        real.ancestors().nth(2).unwrap_or(Path::new("/usr")).to_path_buf()
    }
}
