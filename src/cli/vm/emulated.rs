//! `coracle vm run` in the emulated host: the same VM, run by this program in there.
use super::{Failure, Outcome, exit};
use crate::cli::host::{forward_signals, tell};
use coracle::{
    config::raw::{ConsoleTarget, SerialInput, SerialOutput, VmConfig},
    host::{HostArch, Options, Proxy, RawTerminal, run_self},
};
use log::LevelFilter;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Runs `config` in the host of `arch`, with the streams of this process; answers with the exit code from in there.
pub(super) fn run(arch: HostArch, config: &VmConfig, log_level: LevelFilter) -> Outcome {
    let serial = config.serial.clone().unwrap_or_default();
    if serial.output == Some(SerialOutput::Pty) {
        return Err(Failure::new(
            exit::BAD_CONFIG,
            "serial.output is \"pty\", but a pseudo-terminal of the emulated host cannot be reached from here; leave it \
             out, or run on KVM with --host kvm",
        ));
    }
    if config.vsock.is_some() {
        return Err(Failure::new(
            exit::BAD_CONFIG,
            "vsock.uds_path would be a socket in the emulated host, which cannot be reached from here; leave vsock out, run \
             on KVM with --host kvm, or run this command and its clients in there by `coracle host exec`",
        ));
    }
    let mut files_in = Vec::new();
    let boot = &config.boot_source;
    files_in.extend(boot.kernel_image_path.iter().chain(&boot.initrd_path).cloned());
    if let Some(bundle) = &boot.kernel_bundle {
        files_in.push(bundle_of(bundle, arch));
    }
    if let Some(SerialInput::File(path)) = serial.input {
        files_in.push(path);
    }
    let (disks, written) = disks(config);
    files_in.extend(disks);
    // A file that is missing here is missed in there too, with the message that it would have here.
    files_in.retain(|path| path.exists());
    let mut files_out: Vec<PathBuf> = serial.serial_out_path.into_iter().collect();
    if let Some(SerialOutput::File(path)) = serial.output {
        files_out.push(path);
    }
    for port in config.console.iter().flat_map(|console| &console.ports) {
        match &port.to {
            ConsoleTarget::Stdio => {}
            ConsoleTarget::File(path) => files_out.push(path.clone()),
            ConsoleTarget::Pty | ConsoleTarget::Socket(_) => {
                return Err(Failure::new(
                    exit::BAD_CONFIG,
                    format!(
                        "port {:?} of console.ports leads to a pseudo-terminal or a socket, which would be in the emulated host \
                         and cannot be reached from here; let it lead to a file, or run on KVM with --host kvm",
                        port.name
                    ),
                ));
            }
        }
    }
    files_out.extend(config.logger.as_ref().and_then(|logger| logger.log_path.clone()));

    files_out.extend(written);

    let file = ConfigFile::write(config)?;
    files_in.push(file.0.clone());
    let terminal = RawTerminal::size().filter(|_| rustix::termios::isatty(io::stdout()));
    let proxy = Proxy {
        args: [
            "vm",
            "run",
            "--host",
            "kvm",
            "--log-level",
            log_level.as_str(),
            &file.0.to_string_lossy(),
        ]
        .map(str::to_owned)
        .to_vec(),
        files_in: files_in.iter().map(std::path::absolute).collect::<io::Result<_>>()?,
        files_out,
        env: Vec::new(),
        terminal,
    };
    let mut raw = None;
    let code = run_self(arch, &Options::default(), &proxy, &tell, &mut |signals| {
        forward_signals(signals, terminal.is_some());
        raw = terminal.and_then(|_| RawTerminal::enter());
    });
    drop(raw);
    Ok(code?)
}

/// The files of all drives, and those of them that the guest may change.
fn disks(config: &VmConfig) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut all, mut written) = (Vec::new(), Vec::new());
    for drive in &config.drives {
        let paths: Vec<_> = drive.path_on_host.iter().chain(&drive.further_paths).cloned().collect();
        match &drive.overlay {
            Some(overlay) => written.push(overlay.clone()),
            None if drive.is_read_only == Some(true) => {}
            None => written.extend(paths.clone()),
        }
        all.extend(paths.into_iter().chain(drive.overlay.clone()));
    }
    (all, written)
}

/// The folder of the bundle for `arch`, as the VMM will look for it.
fn bundle_of(folder: &Path, arch: HostArch) -> PathBuf {
    let own = folder.join(arch.name());
    if own.join("manifest.json").exists() {
        own
    } else {
        folder.to_owned()
    }
}

/// The whole config, options included, in a file that is removed when dropped.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn write(config: &VmConfig) -> Result<Self, Failure> {
        let file = Self(std::env::temp_dir().join(format!("coracle-vm-{}.json", std::process::id())));
        fs::write(&file.0, serde_json::to_vec(config)?)?;
        Ok(file)
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
