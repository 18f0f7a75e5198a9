//! `coracle vm`: run, check and describe microVMs.
use super::{Failure, Outcome, exit, host::parse_arch, logger};
use clap::{Args, Subcommand, ValueEnum};
use coracle::{
    builder,
    config::{
        self,
        raw::{self, VmConfig},
    },
    event,
    host::{HostArch, HostChoice, RawTerminal},
    vm::Vm,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH},
    iterator::Signals,
};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

mod drive;
mod emulated;
mod network;

/// The verbs of `coracle vm`.
#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// Boot a microVM and wait for its end
    ///
    /// The machine comes from a config file, from options, or from both: options win. The guest's console is on
    /// standard input and output; on a terminal, Ctrl-a x stops the VM, Ctrl-a p presses its power button and
    /// Ctrl-a a sends Ctrl-a.
    ///
    /// Exit codes: the guest command's own; else 0 after power-off, 152 for a bad config, 153 for bad arguments, 158
    /// after a kernel panic, 159 after a triple fault, 160 if PID 1 of the guest failed, 128 + n after signal n (156
    /// after SIGHUP), 1 for anything else.
    #[command(after_help = "Examples:\n  \
        coracle vm run resources/vm/hello.json\n  \
        coracle vm run --bundle target/bundle -- cat /proc/cpuinfo\n  \
        coracle vm run --kernel vmlinux --initrd initrd.cpio --cmdline 'console=ttyS0' --vcpus 2 --memory 512M")]
    Run(Box<Run>),
    /// Check a config without running it; exit code 152 if it breaks a rule
    Check {
        /// The config file; - reads standard input
        file: PathBuf,
    },
    /// Print the JSON Schema of config files
    Schema,
}

/// What `coracle vm run` takes.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Config file in Firecracker's schema; - reads standard input
    file: Option<PathBuf>,
    /// Kernel: ELF or bzImage on x86_64, Image (also gzip-compressed) on aarch64
    #[arg(long, value_name = "FILE", conflicts_with = "bundle")]
    kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, value_name = "FILE", conflicts_with = "bundle")]
    initrd: Option<PathBuf>,
    /// Kernel bundle, as `coracle kernel build` makes it
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N")]
    vcpus: Option<u64>,
    /// Guest memory: a number with K, M, G or T; MiB without
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u64>,
    /// A file or block device as a drive, and how: ro, root, direct, discard, cache=unsafe or writeback, engine=sync or
    /// async, queues=N, overlay=FILE, id=NAME. Can be given several times; the drives come after the config's
    #[arg(long, value_name = "FILE[,OPTION]...", value_parser = drive::parse)]
    drive: Vec<raw::Drive>,
    /// Network card over a TAP interface: NAME[,mac=MAC][,mtu=BYTES][,queues=N]; may be repeated
    #[arg(long, value_name = "TAP", value_parser = network::tap)]
    tap: Vec<raw::NetworkInterface>,
    /// Network card over a user-mode network or a socket to another VM:
    /// passt[,tcp=PORT:GUESTPORT][,udp=PORT:GUESTPORT] or socket=PATH[,listen], with mac= and mtu= as for --tap; may be
    /// repeated
    #[arg(long, value_name = "NET", value_parser = network::net)]
    net: Vec<raw::NetworkInterface>,
    /// Where the serial port leads: stdout, none, pty or file=PATH
    #[arg(long, value_name = "WHERE", value_parser = serial_output)]
    serial: Option<raw::SerialOutput>,
    /// Which device is the guest's console: virtio (hvc0) or serial (ttyS0) [default: virtio if the command line has
    /// console=hvc0, or for a kernel bundle without --cmdline]
    #[arg(long, value_enum, value_name = "DEVICE")]
    console: Option<ConsoleDevice>,
    /// Sockets between host and guest: the guest's address (3 or more) and the Unix socket on the host
    #[arg(long, value_name = "CID:PATH", value_parser = vsock)]
    vsock: Option<raw::Vsock>,
    /// What a reboot of the guest does
    #[arg(long, value_enum, value_name = "WHAT")]
    on_reboot: Option<OnReboot>,
    /// Where to run: on this machine's KVM, in the emulated host, or as fits (auto: in the emulated host if this
    /// machine has no KVM that runs a stock kernel)
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = clap::value_parser!(HostChoice))]
    host: HostChoice,
    /// Architecture of the VM [default: this machine's]
    #[arg(long, value_name = "ARCH", value_parser = parse_arch)]
    arch: Option<HostArch>,
    /// Most verbose level of log records on standard error, or in the config's log file
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "CORACLE_LOG")]
    log_level: log::LevelFilter,
    /// Command for the guest's PID 1, whose exit code becomes this program's; needs a kernel bundle
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConsoleDevice {
    /// A virtio console, hvc0
    Virtio,
    /// The first serial port, ttyS0
    Serial,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnReboot {
    /// Restart the guest in this process
    Restart,
    /// End the VM
    Exit,
}

/// Runs one of the verbs.
pub(crate) fn run(verb: VmVerb) -> Outcome {
    match verb {
        VmVerb::Run(run) => run.run(),
        VmVerb::Check { file } => {
            config::parse(&read(&file)?).map_err(bad_config)?;
            println!("{}: the config is valid", file.display());
            Ok(0)
        }
        VmVerb::Schema => {
            println!("{}", serde_json::to_string_pretty(&config::schema())?);
            Ok(0)
        }
    }
}

fn bad_config(error: config::ConfigError) -> Failure {
    Failure::new(exit::BAD_CONFIG, error)
}

impl Run {
    fn run(self) -> Outcome {
        let raw = self.config()?;
        let spec = config::check(&raw).map_err(bad_config)?;
        let arch = self.arch.or(HostArch::native()).unwrap_or(HostArch::X86_64);
        if self.host.is_emulated(arch) {
            return emulated::run(arch, &raw, self.log_level);
        }
        if !arch.is_native() {
            let text = format!(
                "a VM for {} cannot run on this machine's KVM; leave out --host kvm",
                arch.name()
            );
            return Err(Failure::new(exit::BAD_ARGUMENTS, text));
        }
        logger::install(spec.logger.as_ref(), self.log_level)?;
        allow_many_files();
        // Before the console: from its raw mode on, a signal must find someone who restores the terminal.
        let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
        let vm = Arc::new(builder::build(spec).map_err(|error| Failure::new(exit::code_of(&error), error))?);
        if let Some(pty) = vm.console_pty() {
            eprintln!("coracle: the guest's console is at {}", pty.display());
        }
        tell_size(&vm);
        let signals = SignalStop::watch(signals, &vm)?;
        // Refused only if a signal or an escape key has stopped it already; what became of it says its outcome.
        let _ = vm.start();
        let outcome = vm.wait();
        if let Some(code) = signals.exit_code() {
            return Ok(code);
        }
        if let event::Outcome::Failed(_)
        | event::Outcome::Panicked(_)
        | event::Outcome::TripleFault
        | event::Outcome::GuestFailed(_) = &outcome
        {
            eprintln!("coracle: {outcome}");
        }
        Ok(outcome.exit_code())
    }

    /// The config file, with the options over it.
    fn config(&self) -> Result<VmConfig, Failure> {
        let mut raw = match &self.file {
            Some(file) => config::read(&read(file)?).map_err(bad_config)?,
            None if self.kernel.is_none() && self.bundle.is_none() => {
                return Err(Failure::new(
                    exit::BAD_ARGUMENTS,
                    "nothing to boot: give a config file, --kernel FILE or --bundle DIR; `coracle vm run --help` shows examples",
                ));
            }
            None => VmConfig::default(),
        };
        self.apply(&mut raw);
        Ok(raw)
    }

    fn apply(&self, raw: &mut VmConfig) {
        let boot = &mut raw.boot_source;
        if self.kernel.is_some() {
            (boot.kernel_bundle, boot.kernel_image_path) = (None, self.kernel.clone());
        }
        if self.bundle.is_some() {
            (boot.kernel_image_path, boot.initrd_path, boot.kernel_bundle) = (None, None, self.bundle.clone());
        }
        if self.initrd.is_some() {
            boot.initrd_path.clone_from(&self.initrd);
        }
        if self.cmdline.is_some() {
            boot.boot_args.clone_from(&self.cmdline);
        }
        if !self.command.is_empty() {
            boot.command.clone_from(&self.command);
        }
        if let Some(vcpus) = self.vcpus {
            raw.machine_config.vcpu_count = vcpus;
        }
        if let Some(memory) = self.memory {
            raw.machine_config.mem_size_mib = memory;
        }
        for drive in &self.drive {
            drive::add(raw, drive);
        }
        if let Some(output) = &self.serial {
            raw.serial.get_or_insert_default().output = Some(output.clone());
        }
        if let Some(device) = self.console {
            raw.console.get_or_insert_default().device = Some(match device {
                ConsoleDevice::Virtio => raw::ConsoleDevice::Virtio,
                ConsoleDevice::Serial => raw::ConsoleDevice::Serial,
            });
        }
        if self.vsock.is_some() {
            raw.vsock.clone_from(&self.vsock);
        }
        network::add(raw, self.tap.iter().chain(&self.net));
        if let Some(choice) = self.on_reboot {
            raw.on_reboot = Some(match choice {
                OnReboot::Restart => raw::OnReboot::Restart,
                OnReboot::Exit => raw::OnReboot::Exit,
            });
        }
    }
}

/// Tells the guest the size of the terminal that its console is on.
fn tell_size(vm: &Vm) {
    if let Some(window) = RawTerminal::size() {
        vm.resize_console(window.columns, window.rows);
    }
}

/// Stops the VM when this process is asked to end, so that nothing is left behind.
struct SignalStop(Arc<AtomicI32>);

impl SignalStop {
    /// Obeys `signals`, also those that have come already.
    fn watch(mut signals: Signals, vm: &Arc<Vm>) -> std::io::Result<Self> {
        let seen = Arc::new(AtomicI32::new(0));
        let (vm, noted) = (Arc::downgrade(vm), seen.clone());
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in &mut signals {
                if signal == SIGWINCH {
                    vm.upgrade().iter().for_each(|vm| tell_size(vm));
                    continue;
                }
                noted.store(signal, Ordering::Relaxed);
                if let Some(vm) = vm.upgrade() {
                    vm.stop();
                }
            }
        })?;
        Ok(Self(seen))
    }

    /// The exit code that tells of the signal, if one came: 128 + n as a shell counts, 156 for SIGHUP as Firecracker.
    fn exit_code(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            SIGHUP => Some(156),
            signal => u8::try_from(128 + signal).ok(),
        }
    }
}

/// Each vsock connection is an open file, and the usual limit of 1024 is less than a guest may have.
fn allow_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(file).map(|read| text = read)
    };
    result.map_err(|error| {
        let message = format!(
            "cannot read the config {}: {error}; check the path and that it is UTF-8",
            file.display()
        );
        Failure::new(exit::BAD_CONFIG, message)
    })?;
    Ok(text)
}

/// A size in MiB: `512`, `512M`, `2G`.
fn mebibytes(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match unit.chars().last() {
        Some('k') => (&unit[..unit.len() - 1], -10),
        Some('m') => (&unit[..unit.len() - 1], 0),
        Some('g') => (&unit[..unit.len() - 1], 10),
        Some('t') => (&unit[..unit.len() - 1], 20),
        _ => (unit, 0),
    };
    let wrong = || format!("{text:?} is no size; write it as 512M, 2G or a number of MiB");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match shift {
        -10 if number.is_multiple_of(1024) => Ok(number / 1024),
        -10 => Err(format!("{text:?} is not a whole number of MiB")),
        shift => number.checked_mul(1 << shift).ok_or_else(wrong),
    }
}

fn serial_output(text: &str) -> Result<raw::SerialOutput, String> {
    match text.split_once('=') {
        None if text == "stdout" => Ok(raw::SerialOutput::Stdout),
        None if text == "none" => Ok(raw::SerialOutput::None),
        None if text == "pty" => Ok(raw::SerialOutput::Pty),
        Some(("file", path)) if !path.is_empty() => Ok(raw::SerialOutput::File(path.into())),
        _ => Err(format!("{text:?} is none of stdout, none, pty, file=PATH")),
    }
}

fn vsock(text: &str) -> Result<raw::Vsock, String> {
    let parts = text.split_once(':').filter(|(_, path)| !path.is_empty());
    let (cid, path) = parts.ok_or_else(|| format!("{text:?} is no CID:PATH; write it as 3:v.sock"))?;
    Ok(raw::Vsock {
        guest_cid: cid
            .parse()
            .map_err(|_| format!("{cid:?} is no number; write it as 3:{path}"))?,
        uds_path: path.into(),
        vsock_id: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mib) in [
            ("512", 512),
            ("512M", 512),
            ("2g", 2048),
            ("1GiB", 1024),
            ("1T", 1 << 20),
            ("2048K", 2),
        ] {
            assert_eq!(mebibytes(text), Ok(mib), "{text}");
        }
        for text in ["", "M", "1.5G", "-1", "99999999999999T", "1000K", "1é"] {
            assert!(mebibytes(text).is_err(), "{text}");
        }
    }
}
