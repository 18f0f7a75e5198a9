//! Rules of network devices. Pure, like all of `check`.
use super::super::raw::{NetSocket, NetworkInterface, Passt};
use super::super::spec::{DeviceSpec, Forward, NetBackend, NetSpec};
use super::super::{
    error::ConfigError,
    shown::{join, quoted},
};
use super::devices::{Names, id, rate_limiter, socket_path};
use std::{net::IpAddr, num::NonZeroU16};

/// The longest name of a network interface on Linux, in bytes.
const MAX_IFACE: usize = 15;
/// The most pairs of queues of a card.
const MAX_PAIRS: u64 = coracle_devices::virtio::net::MAX_PAIRS as u64;

/// Checks the network devices.
pub(super) fn network(interfaces: &[NetworkInterface]) -> Result<Vec<DeviceSpec>, ConfigError> {
    let (mut ids, mut taps, mut macs) = (Names::default(), Names::default(), Names::default());
    let mut specs = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let at = format!("network-interfaces[{index}]");
        id(&join(&at, "iface_id"), &interface.iface_id)?;
        ids.take(&at, "iface_id", &interface.iface_id, &interface.iface_id)?;
        let backend = backend(&at, interface)?;
        if let NetBackend::Tap(name) = &backend {
            taps.take(&at, "host_dev_name", name, name)?;
        }
        let mac = match &interface.guest_mac {
            Some(text) => {
                let bytes = mac(&join(&at, "guest_mac"), text)?;
                macs.take(&at, "guest_mac", &text.to_ascii_lowercase(), text)?;
                Some(bytes)
            }
            None => None,
        };
        let mtu = interface.mtu.map(|mtu| (mtu, u16::try_from(mtu)));
        let mtu = match mtu {
            None => None,
            Some((_, Ok(mtu @ 68..))) => Some(mtu),
            Some((mtu, _)) => {
                return Err(ConfigError::rule(
                    join(&at, "mtu"),
                    mtu.to_string(),
                    "an MTU is 68 to 65535 bytes",
                    "Set it to the MTU of the host's interface, for example 1500",
                ));
            }
        };
        let queue_pairs = queue_pairs(&at, interface)?;
        let receive_limits = rate_limiter(&join(&at, "rx_rate_limiter"), interface.rx_rate_limiter.as_ref())?;
        let transmit_limits = rate_limiter(&join(&at, "tx_rate_limiter"), interface.tx_rate_limiter.as_ref())?;
        specs.push(DeviceSpec::Net(NetSpec {
            id: interface.iface_id.clone(),
            backend,
            mac,
            mtu,
            queue_pairs,
            offloads: interface.offloads.unwrap_or(true),
            receive_limits,
            transmit_limits,
        }));
    }
    Ok(specs)
}

/// What the card is connected to: one of three.
fn backend(at: &str, interface: &NetworkInterface) -> Result<NetBackend, ConfigError> {
    match (&interface.host_dev_name, &interface.passt, &interface.socket) {
        (Some(name), None, None) => tap_name(&join(at, "host_dev_name"), name).map(|()| NetBackend::Tap(name.clone())),
        (None, Some(network), None) => passt(&join(at, "passt"), network),
        (None, None, Some(NetSocket { path, listen })) => {
            socket_path(&join(at, "socket.path"), path)?;
            Ok(NetBackend::Socket {
                path: path.clone(),
                listen: *listen,
            })
        }
        (None, None, None) => Err(ConfigError::MissingKey {
            path: format!("{at}.host_dev_name (or passt or socket)"),
            example: "\"host_dev_name\": \"tap0\"".to_owned(),
        }),
        (Some(_), _, _) => Err(twice(at, "host_dev_name")),
        (None, Some(_), Some(_)) => Err(twice(at, "passt")),
    }
}

fn twice(at: &str, first: &str) -> ConfigError {
    ConfigError::rule(
        join(at, first),
        "set",
        "another of host_dev_name, passt and socket is set as well, and a device is connected to one thing",
        "Keep one of them, and add a device for each other",
    )
}

fn passt(at: &str, network: &Passt) -> Result<NetBackend, ConfigError> {
    let forwards = |key: &str, texts: &[String]| {
        let at = join(at, key);
        let rules = texts.iter().enumerate();
        rules
            .map(|(index, text)| {
                forward(text).ok_or_else(|| {
                    ConfigError::rule(
                        format!("{at}[{index}]"),
                        quoted(text),
                        "a forwarded port is written as PORT, PORT:GUESTPORT or ADDRESS/PORT:GUESTPORT, with ports of 1 to 65535",
                        "Write it like \"8080:80\" or \"127.0.0.1/8080:80\"",
                    )
                })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(NetBackend::Passt {
        tcp: forwards("tcp", &network.tcp)?,
        udp: forwards("udp", &network.udp)?,
    })
}

fn forward(text: &str) -> Option<Forward> {
    let (address, ports) = match text.split_once('/') {
        None => (None, text),
        Some((address, ports)) => (Some(address.parse::<IpAddr>().ok()?), ports),
    };
    let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
    let port = |text: &str| -> Option<u16> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok().map(NonZeroU16::get)).flatten()
    };
    Some(Forward {
        address,
        host: port(host)?,
        guest: port(guest)?,
    })
}

fn queue_pairs(at: &str, interface: &NetworkInterface) -> Result<u16, ConfigError> {
    let wanted = interface.queue_pairs.unwrap_or(1);
    let (rule, remedy) = if !(1..=MAX_PAIRS).contains(&wanted) {
        (
            format!("a card has 1 to {MAX_PAIRS} pairs of queues"),
            "Set such a number; more than vCPUs are of no use",
        )
    } else if wanted > 1 && interface.host_dev_name.is_none() {
        (
            "only a TAP interface has several queues".to_owned(),
            "Remove the key, or use host_dev_name",
        )
    } else {
        return Ok(wanted as u16);
    };
    Err(ConfigError::rule(
        join(at, "queue_pairs"),
        wanted.to_string(),
        rule,
        remedy,
    ))
}

/// What the kernel takes as the name of an interface.
fn tap_name(at: &str, name: &str) -> Result<(), ConfigError> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':' | '%');
    if (1..=MAX_IFACE).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed) {
        return Ok(());
    }
    Err(ConfigError::rule(
        at,
        quoted(name),
        format!("a network interface of Linux has a name of 1 to {MAX_IFACE} bytes without spaces, /, : and %"),
        "Name a TAP interface of the host, for example \"tap0\"",
    ))
}

/// The address that six pairs of digits stand for.
fn mac(at: &str, text: &str) -> Result<[u8; 6], ConfigError> {
    let is_pair = |part: &&str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    let parts = text.split(':').filter(is_pair);
    let bytes: Vec<u8> = parts.filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let bytes = <[u8; 6]>::try_from(bytes).ok().filter(|_| text.split(':').count() == 6);
    let rule = match bytes {
        None => "a MAC address is six pairs of hexadecimal digits with colons between",
        Some([first, ..]) if first & 1 == 1 => {
            "a MAC address with an odd first byte stands for a group, not for a device"
        }
        Some([0, 0, 0, 0, 0, 0]) => "the MAC address of zeros stands for none",
        Some(bytes) => return Ok(bytes),
    };
    let remedy = "Write it like \"06:00:ac:10:00:02\", or remove the key and let the guest choose";
    Err(ConfigError::rule(at, quoted(text), rule, remedy))
}
