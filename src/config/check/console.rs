//! Rules of the console and of named ports. Pure, like all of `check`.
use super::super::raw::{self, ConsoleTarget, VmConfig};
use super::super::{
    error::ConfigError,
    shown::{join, quoted},
    spec::{ConsoleSpec, DeviceSpec, PortSpec, PortTarget, PortsSpec, SerialOutput, SerialSpec},
};
use super::{
    devices::{Names, socket_path},
    path,
};
use coracle_devices::virtio::console::{MAX_NAME, MAX_PORTS};

/// Checks the section; answers with the console and the device that the named ports are of.
pub(super) fn console(
    config: &VmConfig,
    serial: &SerialSpec,
) -> Result<(ConsoleSpec, Option<DeviceSpec>), ConfigError> {
    let device = config.console.as_ref().and_then(|console| console.device);
    let virtio = match device {
        Some(device) => device == raw::ConsoleDevice::Virtio,
        None => expects_virtio(&config.boot_source),
    };
    let listed = config.console.iter().flat_map(|console| &console.ports);
    let mut names = Names::default();
    let mut ports: Vec<PortSpec> = Vec::new();
    for (index, raw) in listed.enumerate() {
        let at = format!("console.ports[{index}]");
        if index == MAX_PORTS {
            return Err(ConfigError::rule(
                at,
                quoted(&raw.name),
                format!("a VM has at most {MAX_PORTS} ports"),
                "Use fewer ports, or a vsock device, which has any number of channels",
            ));
        }
        name(&join(&at, "name"), &raw.name)?;
        names.take(&at, "name", &raw.name, &raw.name)?;
        let stdio = ports.iter().position(|port| port.to == PortTarget::Stdio);
        ports.push(PortSpec {
            name: raw.name.clone(),
            to: target(&join(&at, "to"), &raw.to, serial, stdio)?,
        });
    }
    let ports = (!ports.is_empty()).then_some(DeviceSpec::Ports(PortsSpec { ports }));
    Ok((ConsoleSpec { virtio }, ports))
}

/// Whether the guest will look for hvc0: its command line says so, or it is a bundle's and gets the default.
fn expects_virtio(boot: &raw::BootSource) -> bool {
    match &boot.boot_args {
        Some(args) => args
            .split_ascii_whitespace()
            .take_while(|word| *word != "--")
            .any(|word| word == "console=hvc0" || word.starts_with("console=hvc0,")),
        None => boot.kernel_bundle.is_some(),
    }
}

fn name(at: &str, name: &str) -> Result<(), ConfigError> {
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic() && c != '/') {
        return Ok(());
    }
    Err(ConfigError::rule(
        at,
        quoted(name),
        format!("a port's name has 1 to {MAX_NAME} printable ASCII characters, without spaces and /"),
        "Use a name such as \"org.example.channel\"",
    ))
}

fn target(at: &str, to: &ConsoleTarget, serial: &SerialSpec, stdio: Option<usize>) -> Result<PortTarget, ConfigError> {
    let taken = |rule: String, remedy: &str| Err(ConfigError::rule(at, "\"stdio\"", rule, remedy));
    match (to, stdio) {
        (ConsoleTarget::Stdio, Some(first)) => taken(
            format!("console.ports[{first}] has standard input and output already"),
            "Let one of the two lead elsewhere",
        ),
        (ConsoleTarget::Stdio, None) if serial.output == SerialOutput::Stdout => taken(
            "the guest's console is on standard output".to_owned(),
            "Set serial.output to \"none\" or to a file, or let the port lead elsewhere",
        ),
        (ConsoleTarget::Stdio, None) => Ok(PortTarget::Stdio),
        (ConsoleTarget::Pty, _) => Ok(PortTarget::Pty),
        (ConsoleTarget::File(file), _) => Ok(PortTarget::File(path(&join(at, "file"), file)?)),
        (ConsoleTarget::Socket(socket), _) => {
            socket_path(&join(at, "socket"), socket)?;
            Ok(PortTarget::Socket(socket.clone()))
        }
    }
}
