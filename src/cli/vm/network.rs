//! Network cards as options: `--tap` and `--net`. Only the syntax is checked here; the config's rules hold for them too.
use coracle::config::raw::{NetSocket, NetworkInterface, Passt, VmConfig};

/// Reads `NAME[,key=value]...`.
pub(super) fn tap(text: &str) -> Result<NetworkInterface, String> {
    let (name, rest) = split(text);
    let card = NetworkInterface {
        host_dev_name: Some(name.to_owned()),
        ..NetworkInterface::default()
    };
    if name.is_empty() || name.contains('=') {
        return Err("the name of a TAP interface comes first, as in tap0,mtu=1500".to_owned());
    }
    options(card, rest)
}

/// Reads `passt[,key=value]...` or `socket=PATH[,listen]...`.
pub(super) fn net(text: &str) -> Result<NetworkInterface, String> {
    let (kind, rest) = split(text);
    let mut card = NetworkInterface::default();
    match kind.split_once('=') {
        None if kind == "passt" => card.passt = Some(Passt::default()),
        Some(("socket", path)) if !path.is_empty() => {
            card.socket = Some(NetSocket {
                path: path.into(),
                listen: false,
            });
        }
        _ => return Err(format!("{kind:?} is none of passt, socket=PATH")),
    }
    options(card, rest)
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(',')
        .map_or((text, None), |(first, rest)| (first, Some(rest)))
}

fn options(mut card: NetworkInterface, text: Option<&str>) -> Result<NetworkInterface, String> {
    for option in text.into_iter().flat_map(|text| text.split(',')) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let number = || {
            value
                .parse()
                .map_err(|_| format!("{key} is {value:?}, but must be a number"))
        };
        match (key, &mut card) {
            ("mac", card) => card.guest_mac = Some(value.to_owned()),
            ("mtu", card) => card.mtu = Some(number()?),
            ("queues", card) => card.queue_pairs = Some(number()?),
            ("tcp", NetworkInterface { passt: Some(passt), .. }) => passt.tcp.push(value.to_owned()),
            ("udp", NetworkInterface { passt: Some(passt), .. }) => passt.udp.push(value.to_owned()),
            (
                "listen",
                NetworkInterface {
                    socket: Some(socket), ..
                },
            ) if value.is_empty() => socket.listen = true,
            _ => return Err(format!("{option:?} is no option of this network card")),
        }
    }
    Ok(card)
}

/// Adds cards behind those of the file, under names of their own.
pub(super) fn add<'a>(config: &mut VmConfig, cards: impl Iterator<Item = &'a NetworkInterface>) {
    let all = &mut config.network_interfaces;
    for card in cards {
        // One of so many is free.
        let name = (all.len()..=2 * all.len())
            .map(|index| format!("eth{index}"))
            .find(|name| all.iter().all(|other| other.iface_id != *name))
            .unwrap_or_default();
        all.push(NetworkInterface {
            iface_id: name,
            ..card.clone()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_as_people_write_them() {
        let card = tap("tap0,mac=06:00:00:00:00:01,mtu=9000,queues=2").unwrap();
        assert_eq!(card.host_dev_name.as_deref(), Some("tap0"));
        assert_eq!(card.guest_mac.as_deref(), Some("06:00:00:00:00:01"));
        assert_eq!((card.mtu, card.queue_pairs), (Some(9000), Some(2)));
        let card = net("passt,tcp=8080:80,tcp=127.0.0.1/22:22,udp=53").unwrap();
        let passt = card.passt.unwrap();
        assert_eq!(
            (passt.tcp, passt.udp),
            (
                vec!["8080:80".to_owned(), "127.0.0.1/22:22".to_owned()],
                vec!["53".to_owned()]
            )
        );
        let socket = net("socket=/run/a,listen").unwrap().socket.unwrap();
        assert_eq!((socket.path.to_str(), socket.listen), (Some("/run/a"), true));
    }

    #[test]
    fn what_is_no_card_is_refused() {
        for text in ["", "mtu=3", "tap0,mtu=many", "tap0,tcp=80", "tap0,", "tap0,listen"] {
            assert!(tap(text).is_err(), "{text}");
        }
        for text in [
            "",
            "slirp",
            "socket",
            "socket=",
            "passt,listen",
            "socket=a,listen=x",
            "socket=a,tcp=1",
        ] {
            assert!(net(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cards_get_names_that_are_free() {
        let cards = ["eth1", "lan"].map(|name| NetworkInterface {
            iface_id: name.into(),
            ..tap("t").unwrap()
        });
        let mut config = VmConfig {
            network_interfaces: cards.into(),
            ..VmConfig::default()
        };
        add(&mut config, [tap("a").unwrap(), tap("b").unwrap()].iter());
        let names: Vec<_> = config
            .network_interfaces
            .iter()
            .map(|card| card.iface_id.as_str())
            .collect();
        assert_eq!(names, ["eth1", "lan", "eth2", "eth3"]);
    }
}
