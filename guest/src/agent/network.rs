//! The guest's network: links, addresses, routes, and the files that name servers and hosts stand in.
use super::{
    netlink::{self, Message, Netlink, octets},
    outbox::{DONE, Reply, failure, invalid, refused},
    place::Place,
};
use coracle_protocol::sandbox::{
    Answer, Failed, Reason,
    network::{Dns, Hosts, Link, LinkList, LinkStatus, Route},
};
use rustix::fs::OFlags;
use std::{fmt::Write as _, fs::File, io::Write as _, net::IpAddr};

/// Bytes of `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;

fn open() -> Result<Netlink, Failed> {
    Netlink::open().map_err(refused("talk to the network"))
}

/// All links with their numbers.
fn all_links(netlink: &Netlink) -> Result<Vec<LinkStatus>, Failed> {
    let fail = || refused("list the links");
    let links = netlink
        .list(&Message::new(netlink::GET_LINK, 0, &[0; LINK]))
        .map_err(fail())?;
    let addresses = netlink
        .list(&Message::new(netlink::GET_ADDRESS, 0, &[0; ADDRESS]))
        .map_err(fail())?;
    let status = |link: &netlink::Answer| {
        let (index, flags) = (link.word(4), link.word(8));
        let flag = |flag: i32| flags & flag.unsigned_abs() != 0;
        let name = link.attribute(LINK, libc::IFLA_IFNAME).unwrap_or_default();
        let mac = link.attribute(LINK, libc::IFLA_ADDRESS).unwrap_or_default();
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let own = addresses.iter().filter(|address| address.word(4) == index);
        LinkStatus {
            name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
            index,
            up: flag(libc::IFF_UP),
            carrier: flag(libc::IFF_LOWER_UP),
            mtu: link.number(LINK, libc::IFLA_MTU).unwrap_or(0),
            mac: mac.join(":"),
            addresses: own.filter_map(address_of).collect(),
        }
    };
    Ok(links.iter().map(status).collect())
}

/// `10.0.0.2/24`; of a pair of addresses the own one.
fn address_of(message: &netlink::Answer) -> Option<String> {
    let own = message.address(ADDRESS, libc::IFA_LOCAL);
    let address = own.or_else(|| message.address(ADDRESS, libc::IFA_ADDRESS))?;
    Some(format!("{address}/{}", message.byte(1)))
}

pub(super) fn links() -> Reply {
    let links = all_links(&open()?)?;
    Ok(Answer::Links(LinkList { links }))
}

fn index_of(netlink: &Netlink, name: &str) -> Result<u32, Failed> {
    let links = all_links(netlink)?;
    let found = links.iter().find(|link| link.name == name);
    found.map(|link| link.index).ok_or_else(|| {
        let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        let text = format!("there is no link {name:?}, but {}", names.join(", "));
        failure(Reason::NotFound, text)
    })
}

/// `10.0.0.2/24`, or an address alone, which is a network of its own.
fn network_of(text: &str) -> Result<(IpAddr, u8), Failed> {
    let wrong = || {
        invalid(format!(
            "{text:?} is no address with the length of its network, such as 10.0.0.2/24"
        ))
    };
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) => length.parse().ok().filter(|length| *length <= most).ok_or_else(wrong)?,
        None => most,
    };
    Ok((address, length))
}

fn address(text: &str) -> Result<IpAddr, Failed> {
    text.parse().map_err(|_| invalid(format!("{text:?} is no address")))
}

pub(super) fn link(wish: &Link) -> Reply {
    let change = |text: &String| network_of(text);
    let add = wish.add.iter().map(change).collect::<Result<Vec<_>, _>>()?;
    let remove = wish.remove.iter().map(change).collect::<Result<Vec<_>, _>>()?;
    let netlink = open()?;
    let index = index_of(&netlink, &wish.name)?;
    for network in remove {
        let done = netlink.tell(&address_message(netlink::DELETE_ADDRESS, 0, index, network));
        if done
            .as_ref()
            .is_err_and(|error| error.raw_os_error() != Some(libc::EADDRNOTAVAIL))
        {
            done.map_err(refused(format!("remove {} from {}", network.0, wish.name)))?;
        }
    }
    if wish.up.is_some() || wish.mtu.is_some() {
        let up = libc::IFF_UP.unsigned_abs();
        let mut fixed = vec![0; 4];
        fixed.extend(index.to_ne_bytes());
        fixed.extend(if wish.up == Some(true) { up } else { 0 }.to_ne_bytes());
        fixed.extend(if wish.up.is_some() { up } else { 0 }.to_ne_bytes());
        let mut message = Message::new(netlink::SET_LINK, 0, &fixed);
        if let Some(mtu) = wish.mtu {
            message = message.with(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        netlink
            .tell(&message)
            .map_err(refused(format!("change {}", wish.name)))?;
    }
    for network in add {
        netlink
            .tell(&address_message(netlink::NEW_ADDRESS, netlink::REPLACE, index, network))
            .map_err(refused(format!("add {} to {}", network.0, wish.name)))?;
    }
    Ok(DONE)
}

fn address_message(kind: u16, flags: u16, index: u32, (address, length): (IpAddr, u8)) -> Message {
    let (family, bytes) = octets(address);
    let mut fixed = vec![family, length, 0, 0];
    fixed.extend(index.to_ne_bytes());
    let message = Message::new(kind, flags, &fixed)
        .with(libc::IFA_LOCAL, &bytes)
        .with(libc::IFA_ADDRESS, &bytes);
    match address {
        // All ones in the host's part.
        IpAddr::V4(address) if length < 31 => {
            let broadcast = address.to_bits() | u32::MAX.checked_shr(length.into()).unwrap_or(0);
            message.with(libc::IFA_BROADCAST, &broadcast.to_be_bytes())
        }
        _ => message,
    }
}

pub(super) fn route(wish: &Route) -> Reply {
    let to = wish.to.as_deref().map(network_of).transpose()?;
    let via = wish.via.as_deref().map(address).transpose()?;
    let family = match (to, via) {
        (Some((to, _)), Some(via)) if to.is_ipv4() != via.is_ipv4() => {
            return Err(invalid("the network and its router are of different families"));
        }
        (Some((to, _)), _) => octets(to).0,
        (None, Some(via)) => octets(via).0,
        (None, None) => libc::AF_INET as u8,
    };
    if via.is_none() && wish.link.is_none() {
        return Err(invalid("a route needs a router or a link: give via, link or both"));
    }
    let netlink = open()?;
    let scope = if via.is_some() || wish.remove {
        libc::RT_SCOPE_UNIVERSE
    } else {
        libc::RT_SCOPE_LINK
    };
    let scope = if wish.remove { libc::RT_SCOPE_NOWHERE } else { scope };
    let length = to.map_or(0, |(_, length)| length);
    let (protocol, kind) = if wish.remove {
        (libc::RTPROT_UNSPEC, libc::RTN_UNSPEC)
    } else {
        (libc::RTPROT_STATIC, libc::RTN_UNICAST)
    };
    let fixed = [
        family,
        length,
        0,
        0,
        libc::RT_TABLE_MAIN,
        protocol,
        scope,
        kind,
        0,
        0,
        0,
        0,
    ];
    let (request, flags) = if wish.remove {
        (netlink::DELETE_ROUTE, 0)
    } else {
        (netlink::NEW_ROUTE, netlink::REPLACE)
    };
    let mut message = Message::new(request, flags, &fixed);
    if let Some((to, _)) = to {
        message = message.with(libc::RTA_DST, &octets(to).1);
    }
    if let Some(via) = via {
        message = message.with(libc::RTA_GATEWAY, &octets(via).1);
    }
    if let Some(link) = &wish.link {
        message = message.with(libc::RTA_OIF, &index_of(&netlink, link)?.to_ne_bytes());
    }
    if let Some(metric) = wish.metric {
        message = message.with(libc::RTA_PRIORITY, &metric.to_ne_bytes());
    }
    let wish_text = if wish.remove {
        "remove the route"
    } else {
        "add the route"
    };
    let to = wish.to.as_deref().unwrap_or("default");
    netlink.tell(&message).map_err(refused(format!("{wish_text} {to}")))?;
    Ok(DONE)
}

/// Words that make no new lines or fields of their own.
fn words<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<String, Failed> {
    let mut line = String::new();
    for text in texts {
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            return Err(invalid(format!("{text:?} is no word")));
        }
        let _ = write!(line, " {text}");
    }
    Ok(line)
}

pub(super) fn dns(wish: &Dns) -> Reply {
    let mut text = String::new();
    for server in &wish.servers {
        let _ = writeln!(text, "nameserver {}", address(server)?);
    }
    for (key, values) in [("search", &wish.search), ("options", &wish.options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{key}{}", words(values)?);
        }
    }
    put(wish.root.as_deref(), "/etc/resolv.conf", &text)
}

pub(super) fn hosts(wish: &Hosts) -> Reply {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for (host, names) in &wish.entries {
        let _ = writeln!(text, "{}{}", address(host)?, words(names)?);
    }
    if let Some(name) = &wish.name {
        words([name])?;
        rustix::system::sethostname(name.as_bytes()).map_err(refused("set the host's name"))?;
    }
    put(wish.root.as_deref(), "/etc/hosts", &text)
}

/// Replaces a file in `/etc`.
fn put(root: Option<&str>, path: &str, text: &str) -> Reply {
    let fail = || refused(format!("write {path}"));
    let place = Place::new(root)?;
    place.make_folders("/etc", 0o755).map_err(fail())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mut file = File::from(place.open(path, flags, 0o644).map_err(fail())?);
    file.write_all(text.as_bytes())
        .map_err(refused(format!("write {path}")))?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_a_length() {
        let parse = |text| {
            network_of(text)
                .ok()
                .map(|(address, length)| (address.to_string(), length))
        };
        assert_eq!(parse("10.0.0.2/24"), Some(("10.0.0.2".into(), 24)));
        assert_eq!(parse("10.0.0.2"), Some(("10.0.0.2".into(), 32)));
        assert_eq!(parse("fd00::2/64"), Some(("fd00::2".into(), 64)));
        for wrong in ["", "10.0.0.2/33", "fd00::/129", "10.0.0/8", "10.0.0.2/x", "/8"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_stay_words() {
        assert_eq!(words(&["a.b".into(), "c".into()]).unwrap(), " a.b c");
        for wrong in ["", "a b", "a\nnameserver 6.6.6.6", "a#"] {
            assert!(words(&[wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn links_of_this_machine_are_found() {
        let Ok(Answer::Links(list)) = links() else {
            panic!("no links")
        };
        let lo = list.links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((lo.index, lo.mac.as_str()), (1, "00:00:00:00:00:00"));
        assert!(lo.mtu > 1000);
        let wrong = Link {
            name: "none".into(),
            ..Link::default()
        };
        assert_eq!(link(&wrong).unwrap_err().reason, Reason::NotFound);
    }
}
