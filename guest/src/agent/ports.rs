//! TCP ports of the guest: who listens, and streams that lead there.
use super::{
    outbox::{DONE, Reply, invalid, refused},
    relay::{AtEnd, Pair, Relay},
    vsock,
};
use coracle_protocol::sandbox::{
    Answer,
    network::{Forward, PortList, PortStatus},
};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

/// How long a port may take to accept.
const PATIENCE: Duration = Duration::from_secs(10);

/// State of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

pub(super) fn list() -> Reply {
    let mut ports = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(text) => ports.extend(text.lines().skip(1).filter_map(listener)),
            // A kernel may have no IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(format!("read {path}"))(error)),
        }
    }
    Ok(Answer::Ports(PortList { ports }))
}

/// A line of `/proc/net/tcp`: number, own address, other address, state, ..., user.
fn listener(line: &str) -> Option<PortStatus> {
    let mut fields = line.split_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != LISTENS {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    // Words of four bytes in the machine's order.
    let word = |at: usize| {
        let digits = address.get(at..at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = if address.len() == 8 {
        IpAddr::from(Ipv4Addr::from(word(0)?))
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?];
        let bytes: Vec<u8> = words.concat();
        IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
    };
    Some(PortStatus {
        port: u16::from_str_radix(port, 16).ok()?,
        address: address.to_string(),
        uid,
    })
}

pub(super) fn forward(wish: &Forward, relay: &Relay) -> Reply {
    let address = match wish.address.as_deref() {
        Some(text) => text.parse().map_err(|_| invalid(format!("{text:?} is no address")))?,
        None => IpAddr::from(Ipv4Addr::LOCALHOST),
    };
    let target = SocketAddr::new(address, wish.port);
    let fail = || refused(format!("connect to {target}"));
    let tcp = TcpStream::connect_timeout(&target, PATIENCE).map_err(fail())?;
    let _ = tcp.set_nodelay(true);
    tcp.set_nonblocking(true).map_err(fail())?;
    let tcp = OwnedFd::from(tcp);
    let [stream] = vsock::streams([Some(wish.stream)]).map_err(refused("open the stream"))?;
    let Some(stream) = stream else { return Ok(DONE) };
    let (again, tcp_again) = (stream.try_clone().map_err(fail())?, tcp.try_clone().map_err(fail())?);
    for (from, to) in [(stream, tcp), (tcp_again, again)] {
        relay.add(Pair {
            from,
            to,
            first: vec![],
            at_end: AtEnd::Shutdown,
            one_way: false,
            on_end: None,
        });
    }
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_line_of_the_kernel_is_understood() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 5 1 0 100 0 0 10 0";
        let found = listener(line).unwrap();
        assert_eq!(
            (found.port, found.address.as_str(), found.uid),
            (8080, "127.0.0.1", 1000)
        );
        let six = "1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1";
        assert_eq!(listener(six).unwrap().address, "::1");
        assert!(listener(&line.replace(" 0A ", " 01 ")).is_none());
        assert!(listener("x").is_none() && listener("").is_none());
    }

    #[test]
    fn a_listener_here_is_found() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let Ok(Answer::Ports(list)) = list() else {
            panic!("no list")
        };
        assert!(
            list.ports
                .iter()
                .any(|found| found.port == port && found.address == "127.0.0.1")
        );
    }
}
