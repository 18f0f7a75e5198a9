//! Every rule of a config: makes a [`VmSpec`] of a [`raw::VmConfig`] or says what is wrong first.
//!
//! Pure, on the caller's thread. It never asks the machine: whether files exist, how many vCPUs KVM allows or how
//! long a command line may be is found out when the VM is built. What coracle cannot do yet is refused last, so that
//! a config's own mistakes are told either way.
use super::{error::ConfigError, shown::quoted};
use super::{raw, spec};
use log::LevelFilter;
use spec::VmSpec;
use std::path::{Path, PathBuf};

mod console;
mod cpu;
mod devices;
mod drives;
mod network;
mod support;

/// The most vCPUs that make sense; KVM's limit is lower.
const MAX_VCPUS: u32 = 8192;
/// The least memory in MiB that Linux boots with.
const MIN_MEM_MIB: u64 = 32;
/// The most memory in MiB that makes sense: 64 TiB.
const MAX_MEM_MIB: u64 = 64 << 20;

/// Checks every rule.
///
/// # Errors
/// The first rule that is broken, in the order of the sections; after them the first thing that coracle cannot do.
pub fn check(config: &raw::VmConfig) -> Result<VmSpec, ConfigError> {
    let boot = boot(&config.boot_source)?;
    let (vcpus, memory) = machine(&config.machine_config)?;
    cpu::cpu_config(config.cpu_config.as_ref())?;
    let mut devices = drives::drives(&config.drives)?;
    devices.extend(network::network(&config.network_interfaces)?);
    devices.extend(devices::devices(config)?);
    let root = drives::root(&config.drives);
    let logger = config.logger.as_ref().map(logger).transpose()?;
    let serial = serial(config.serial.as_ref())?;
    let (console, ports) = console::console(config, &serial)?;
    devices.extend(ports);
    support::refuse_missing(config)?;
    Ok(VmSpec {
        boot: spec::BootSpec { root, ..boot },
        vcpus,
        memory,
        serial,
        virtio_transport: transport(config),
        console,
        devices,
        on_reboot: match config.on_reboot {
            None | Some(raw::OnReboot::Restart) => spec::OnReboot::Restart,
            Some(raw::OnReboot::Exit) => spec::OnReboot::Exit,
        },
        logger,
    })
}

fn boot(boot: &raw::BootSource) -> Result<spec::BootSpec, ConfigError> {
    if let Some(args) = &boot.boot_args {
        cmdline(args)?;
    }
    let source = match (&boot.kernel_image_path, &boot.kernel_bundle) {
        (Some(_), Some(bundle)) => {
            return Err(ConfigError::rule(
                "boot-source.kernel_bundle",
                quoted(&bundle.to_string_lossy()),
                "kernel_image_path names a kernel as well",
                "Keep one of the two",
            ));
        }
        (None, None) => {
            return Err(ConfigError::MissingKey {
                path: "boot-source.kernel_image_path (or kernel_bundle)".to_owned(),
                example: "\"kernel_image_path\": \"vmlinux\"".to_owned(),
            });
        }
        (Some(kernel), None) => spec::BootSource::Files {
            kernel: path("boot-source.kernel_image_path", kernel)?,
            initrd: optional_path("boot-source.initrd_path", boot.initrd_path.as_deref())?,
        },
        (None, Some(bundle)) => {
            if let Some(initrd) = &boot.initrd_path {
                return Err(ConfigError::rule(
                    "boot-source.initrd_path",
                    quoted(&initrd.to_string_lossy()),
                    "the kernel bundle brings its own initramfs",
                    "Remove initrd_path, or name the kernel by kernel_image_path instead of kernel_bundle",
                ));
            }
            spec::BootSource::Bundle(path("boot-source.kernel_bundle", bundle)?)
        }
    };
    command(boot)?;
    Ok(spec::BootSpec {
        source,
        cmdline: boot.boot_args.clone(),
        root: None,
        command: boot.command.clone(),
        load: match boot.kernel_load {
            None | Some(raw::KernelLoad::Auto) => spec::KernelLoad::Auto,
            Some(raw::KernelLoad::Copy) => spec::KernelLoad::Copy,
            Some(raw::KernelLoad::Map) => spec::KernelLoad::Map,
        },
        protocol: match boot.protocol {
            None | Some(raw::Protocol::Auto) => spec::Protocol::Auto,
            Some(raw::Protocol::Linux64) => spec::Protocol::Linux64,
            Some(raw::Protocol::Pvh) => spec::Protocol::Pvh,
        },
    })
}

/// How the guest reaches virtio devices: what measured better overall, unless its kernel is told to leave PCI alone.
fn transport(config: &raw::VmConfig) -> spec::VirtioTransport {
    let args = config.boot_source.boot_args.as_deref().unwrap_or_default();
    match config.machine_config.virtio_transport {
        Some(raw::VirtioTransport::Mmio) => spec::VirtioTransport::Mmio,
        None if args.split_whitespace().any(|arg| arg == "pci=off") => spec::VirtioTransport::Mmio,
        None | Some(raw::VirtioTransport::Pci) => spec::VirtioTransport::Pci,
    }
}

/// The kernel command line: printable ASCII, as nothing else survives every boot protocol.
fn cmdline(args: &str) -> Result<(), ConfigError> {
    match args.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
        None => Ok(()),
        Some((at, c)) => Err(ConfigError::rule(
            "boot-source.boot_args",
            quoted(args),
            format!(
                "a kernel command line has printable ASCII only, and byte {at} begins {}",
                quoted(&c.to_string())
            ),
            "Remove or replace that character",
        )),
    }
}

fn command(boot: &raw::BootSource) -> Result<(), ConfigError> {
    let Some(program) = boot.command.first() else {
        return Ok(());
    };
    if boot.kernel_bundle.is_none() {
        return Err(ConfigError::rule(
            "boot-source.command",
            format!("[{}, …]", quoted(program)),
            "only the init of a kernel bundle can run it",
            "Name a bundle by kernel_bundle instead of kernel_image_path, or remove command",
        ));
    }
    if program.is_empty() {
        return Err(ConfigError::rule(
            "boot-source.command[0]",
            "\"\"",
            "the first part of a command is its program",
            "Name a program, for example \"/bin/uname\"",
        ));
    }
    match boot.command.iter().position(|part| part.contains('\0')) {
        None => Ok(()),
        Some(index) => Err(ConfigError::rule(
            format!("boot-source.command[{index}]"),
            boot.command.get(index).map(|part| quoted(part)).unwrap_or_default(),
            "no argument of a program can hold a NUL character",
            "Remove the character",
        )),
    }
}

fn machine(machine: &raw::MachineConfig) -> Result<(u32, spec::MemorySpec), ConfigError> {
    let vcpus = u32::try_from(machine.vcpu_count).unwrap_or(u32::MAX);
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(ConfigError::rule(
            "machine-config.vcpu_count",
            machine.vcpu_count.to_string(),
            format!("a VM has 1 to {MAX_VCPUS} vCPUs, and no more than KVM allows"),
            if vcpus == 0 {
                "Set it to at least 1"
            } else {
                "Set it to no more than the host's CPUs"
            },
        ));
    }
    if machine.smt && vcpus > 1 && vcpus % 2 == 1 {
        return Err(ConfigError::rule(
            "machine-config.vcpu_count",
            vcpus.to_string(),
            "smt is true, which takes vCPUs in pairs",
            "Set an even number, or smt to false",
        ));
    }
    let memory = memory(machine)?;
    optional_path("machine-config.gdb_socket_path", machine.gdb_socket_path.as_deref())?;
    Ok((vcpus, memory))
}

fn memory(machine: &raw::MachineConfig) -> Result<spec::MemorySpec, ConfigError> {
    let mib = machine.mem_size_mib;
    let refuse = |rule: String, remedy: &str| {
        Err(ConfigError::rule(
            "machine-config.mem_size_mib",
            mib.to_string(),
            rule,
            remedy,
        ))
    };
    if mib < MIN_MEM_MIB {
        return refuse(
            format!("Linux needs at least {MIN_MEM_MIB} MiB to boot"),
            "Set it to 32 or more, for example 256; the unit is MiB",
        );
    }
    if mib > MAX_MEM_MIB {
        return refuse(
            format!("a VM has at most {MAX_MEM_MIB} MiB (64 TiB)"),
            "Set a smaller size; the unit is MiB, not bytes",
        );
    }
    let huge_pages = match machine.huge_pages {
        None | Some(raw::HugePages::Transparent) => spec::HugePages::Transparent,
        Some(raw::HugePages::None) => spec::HugePages::None,
        Some(raw::HugePages::Hugetlb2M) => spec::HugePages::Hugetlb2M,
    };
    if huge_pages == spec::HugePages::Hugetlb2M && mib % 2 == 1 {
        return refuse(
            "huge_pages is \"2M\", and only an even size fills pages of 2 MiB".to_owned(),
            "Set an even number, or huge_pages to \"Transparent\"",
        );
    }
    Ok(spec::MemorySpec {
        bytes: mib << 20,
        huge_pages,
    })
}

fn logger(logger: &raw::Logger) -> Result<spec::LoggerSpec, ConfigError> {
    let level = match logger.level.as_deref() {
        None => LevelFilter::Info,
        Some(word) if word.eq_ignore_ascii_case("warning") => LevelFilter::Warn,
        Some(word) => word.parse().map_err(|_| {
            ConfigError::rule(
                "logger.level",
                quoted(word),
                "the levels are Off, Error, Warn, Info, Debug and Trace",
                "Use one of them",
            )
        })?,
    };
    if logger.module.as_deref() == Some("") {
        return Err(ConfigError::rule(
            "logger.module",
            "\"\"",
            "it says which module's records are kept",
            "Name a module path, for example \"coracle::vm\", or remove the key",
        ));
    }
    Ok(spec::LoggerSpec {
        path: optional_path("logger.log_path", logger.log_path.as_deref())?,
        level,
        show_level: logger.show_level.unwrap_or_default(),
        show_origin: logger.show_log_origin.unwrap_or_default(),
        module: logger.module.clone(),
    })
}

fn serial(serial: Option<&raw::Serial>) -> Result<spec::SerialSpec, ConfigError> {
    let Some(serial) = serial else {
        return Ok(spec::SerialSpec::default());
    };
    if let (Some(_), Some(file)) = (&serial.output, &serial.serial_out_path) {
        return Err(ConfigError::rule(
            "serial.serial_out_path",
            quoted(&file.to_string_lossy()),
            "output says already where guest output goes",
            "Keep one of the two",
        ));
    }
    if let Some(limit) = &serial.rate_limiter {
        devices::token_bucket("serial.rate_limiter", limit)?;
    }
    let output = match (&serial.output, &serial.serial_out_path) {
        (Some(raw::SerialOutput::File(file)), _) => spec::SerialOutput::File(path("serial.output.file", file)?),
        (Some(raw::SerialOutput::None), _) => spec::SerialOutput::None,
        (Some(raw::SerialOutput::Pty), _) => spec::SerialOutput::Pty,
        (_, Some(file)) => spec::SerialOutput::File(path("serial.serial_out_path", file)?),
        (Some(raw::SerialOutput::Stdout) | None, None) => spec::SerialOutput::Stdout,
    };
    let input = match &serial.input {
        Some(input) if output == spec::SerialOutput::Pty => {
            return Err(ConfigError::rule(
                "serial.input",
                match input {
                    raw::SerialInput::Stdin => "\"stdin\"".to_owned(),
                    raw::SerialInput::None => "\"none\"".to_owned(),
                    raw::SerialInput::File(file) => quoted(&file.to_string_lossy()),
                },
                "output is \"pty\", and a pseudo-terminal is the input as well",
                "Remove serial.input, or choose another output",
            ));
        }
        None if output == spec::SerialOutput::Pty => spec::SerialInput::None,
        None | Some(raw::SerialInput::Stdin) => spec::SerialInput::Stdin,
        Some(raw::SerialInput::None) => spec::SerialInput::None,
        Some(raw::SerialInput::File(file)) => spec::SerialInput::File(path("serial.input.file", file)?),
    };
    Ok(spec::SerialSpec { input, output })
}

/// A path that can be opened: not empty, no NUL.
fn path(at: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let rule = if bytes.is_empty() {
        "a path is not empty"
    } else if bytes.contains(&0) {
        "no path can hold a NUL character"
    } else {
        return Ok(path.to_owned());
    };
    let remedy = "Give a path, relative to the current directory or from the root";
    Err(ConfigError::rule(at, quoted(&path.to_string_lossy()), rule, remedy))
}

fn optional_path(at: &str, file: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
    file.map(|file| path(at, file)).transpose()
}
