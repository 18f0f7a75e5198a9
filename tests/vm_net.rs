//! Network cards in a stock kernel: over TAP interfaces, a user-mode network, and a socket between two VMs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod tap;
    pub mod tiny;
}
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use support::{
    run::{Ended, Run, bundle},
    tap::{Tap, ip},
    tiny::Folder,
};

/// Bytes that go each way.
const SIZE: usize = 3 << 20;

/// Brings the card up; prints what the guest sees of it; reads from one port
/// of a peer and sends the same to another. A peer may not listen yet.
const UP: &str = "up() { ip addr add $1 dev eth0; ip link set eth0 up; }
facts() { cd /sys/class/net/eth0; echo CARD mtu $(cat mtu) mac $(cat address) queues $(ls -d queues/rx-* | wc -l); cd /; }
fetch() {
    until nc $1 $2 > /tmp/file; do sleep 0.1; done
    sha256sum < /tmp/file
    until nc $1 $3 < /tmp/file; do sleep 0.1; done
}
";

/// Bytes that repeat nowhere within a packet.
fn bytes() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    next.take(SIZE / 8).flat_map(u64::to_le_bytes).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let folder = Folder::new("sum");
    let file = folder.join("file");
    fs::write(&file, bytes).unwrap();
    let output = Command::new("sha256sum").arg(&file).output().unwrap().stdout;
    String::from_utf8(output).unwrap()[..64].to_owned()
}

/// Serves the guest: gives it the bytes at one port and takes them back at another.
struct Server {
    give: u16,
    take: u16,
    thread: thread::JoinHandle<Vec<u8>>,
}

impl Server {
    fn new(at: Ipv4Addr, rounds: usize) -> Self {
        let [giver, taker] = [0, 0].map(|port| TcpListener::bind((at, port)).unwrap());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        Self {
            give: port(&giver),
            take: port(&taker),
            thread: thread::spawn(move || {
                let mut back = Vec::new();
                for _ in 0..rounds {
                    giver.accept().unwrap().0.write_all(&bytes()).unwrap();
                    back.clear();
                    taker.accept().unwrap().0.read_to_end(&mut back).unwrap();
                }
                back
            }),
        }
    }

    /// Whether everything came back as it went.
    fn check(self, ended: &Ended, rounds: usize) {
        assert!(self.thread.join().unwrap() == bytes(), "what came back differs");
        let sums = ended.text().matches(&sha256(&bytes())).count();
        assert_eq!(sums, rounds, "{}", ended.text());
    }
}

/// A guest whose devices are on a bus of this kind.
fn guest_on(folder: &Folder, transport: &str, card: &str, script: &str) -> Run {
    let command = serde_json::to_string(&["sh", "-c", script]).unwrap();
    let text = format!(
        r#"{{"boot-source": {{"kernel_bundle": "{}", "command": {command}}},
            "machine-config": {{"vcpu_count": 2, "mem_size_mib": 128, "virtio_transport": "{transport}"}},
            "network-interfaces": [{card}]}}"#,
        bundle().display()
    );
    let config = folder.join("vm.json");
    fs::write(&config, text).unwrap();
    Run::new(["vm", "run"]).arg(config)
}

#[test]
fn tcp_goes_both_ways_over_a_tap_while_the_driver_comes_and_goes() {
    const ROUNDS: usize = 2;
    let tap = Tap::new("cortap0", "172.30.7.1/24", false);
    let server = Server::new(Ipv4Addr::new(172, 30, 7, 1), ROUNDS);
    let (give, take) = (server.give, server.take);
    // Broadcasts reach a guest that has no address at the moment.
    let over = Arc::new(AtomicBool::new(false));
    let (ends, socket) = (over.clone(), UdpSocket::bind("172.30.7.1:0").unwrap());
    socket.set_broadcast(true).unwrap();
    let flood = thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            let _ = socket.send_to(&[7; 1400], "172.30.7.255:9");
            thread::sleep(Duration::from_millis(1));
        }
    });
    let script = format!(
        "{UP} up 172.30.7.2/24; facts; fetch 172.30.7.1 {give} {take}
        cd /sys/bus/virtio/drivers/virtio_net; card=$(echo virtio*)
        for i in $(seq 50); do
            dd if=/dev/zero bs=1400 count=200 2>/dev/null | nc -u -w 1 172.30.7.1 9 &
            echo $card > unbind; echo $card > bind; up 172.30.7.2/24
        done
        kill $(jobs -p) 2>/dev/null; echo REBOUND
        fetch 172.30.7.1 {give} {take}"
    );
    let card = format!("{},mac=06:00:ac:1e:07:02,mtu=1400", tap.name);
    let ended = Run::guest(&["--tap", &card], &script).end();
    over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let ended = ended
        .code(0)
        .shows("CARD mtu 1400 mac 06:00:ac:1e:07:02 queues 1")
        .shows("REBOUND");
    server.check(&ended, ROUNDS);
}

#[test]
fn several_queues_serve_several_cpus() {
    let tap = Tap::new("cortap1", "172.30.8.1/24", true);
    for transport in ["Mmio", "Pci"] {
        let server = Server::new(Ipv4Addr::new(172, 30, 8, 1), 1);
        let script = format!(
            "{UP} up 172.30.8.2/24; facts; fetch 172.30.8.1 {} {}",
            server.give, server.take
        );
        let card = format!(
            r#"{{"iface_id": "eth0", "host_dev_name": "{}", "queue_pairs": 2}}"#,
            tap.name
        );
        let folder = Folder::new(transport);
        let ended = guest_on(&folder, transport, &card, &script).end();
        let ended = ended.code(0).shows("queues 2");
        server.check(&ended, 1);
    }
}

#[test]
fn a_tap_that_cannot_be_used_is_explained() {
    let refused = Run::guest(&["--tap", "cornone"], "true").end();
    let text = "there is no interface cornone; make it with `ip tuntap add dev cornone mode tap user $USER`";
    assert!(refused.errors.contains(text), "{}", refused.errors);
    let tap = Tap::new("cortap2", "172.30.9.1/24", false);
    let running = Run::guest(&["--tap", &tap.name], "echo UP; sleep 1000").start();
    running.wait_for("UP");
    let refused = Run::guest(&["--tap", &tap.name], "true").end();
    assert!(
        refused.errors.contains("cortap2 is in use by another process"),
        "{}",
        refused.errors
    );
    drop(running);
    let refused = Run::guest(&["--tap", "lo"], "true").end();
    assert!(refused.errors.contains("lo is no TAP interface"), "{}", refused.errors);
}

/// The host's own address and gateway, which passt gives to the guest.
fn default_route() -> (String, String) {
    let show = |arguments: &[&str]| {
        let output = Command::new("ip").args(arguments).output().unwrap().stdout;
        String::from_utf8(output).unwrap()
    };
    let after = |text: &str, word: &str| {
        let mut words = text.split_whitespace().skip_while(|found| *found != word);
        words.nth(1).map(str::to_owned)
    };
    let mut routes = show(&["route"]);
    if !routes.contains("default via") {
        ip(&["route", "add", "default", "via", "10.0.2.2", "dev", "eth0"]);
        routes = show(&["route"]);
    }
    let gateway = after(&routes[routes.find("default via").unwrap()..], "via").unwrap();
    let device = after(&routes[routes.find("default via").unwrap()..], "dev").unwrap();
    let address = after(&show(&["addr", "show", "dev", &device]), "inet").unwrap();
    (address, gateway)
}

#[test]
fn a_user_mode_network_leads_out_and_ports_lead_in() {
    let (address, gateway) = default_route();
    let server = Server::new(Ipv4Addr::LOCALHOST, 1);
    let script = format!(
        "{UP} up {address}; ip route add default via {gateway}; facts
        fetch {gateway} {} {}
        echo WAITING; nc -l -p 80 > /tmp/in; sha256sum < /tmp/in",
        server.give, server.take
    );
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let running = Run::guest(&["--net", &format!("passt,tcp={port}:80,mtu=9000")], &script).start();
    running.wait_for("WAITING");
    thread::sleep(Duration::from_millis(200));
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .unwrap()
        .write_all(&bytes())
        .unwrap();
    let ended = running.end().code(0).shows("CARD mtu 9000 ");
    server.check(&ended, 2);
}

#[test]
fn two_vms_meet_at_a_socket_and_see_each_other_go() {
    let folder = Folder::new("meet");
    let socket = folder.join("link.sock");
    let net = |more: &str| format!("socket={}{more}", socket.display());
    let carrier =
        "carrier() { while [ \"$(cat /sys/class/net/eth0/carrier)\" != $1 ]; do sleep 0.1; done; echo CARRIER $1; }";
    // The first gives what it has, takes it back, and sees the other go.
    let script = format!(
        "{UP}{carrier}
        up 10.9.9.1/24; carrier 0; echo READY; carrier 1
        dd if=/dev/urandom of=/tmp/out bs=64k count=40 2>/dev/null
        nc -l -p 5001 < /tmp/out; nc -l -p 5002 > /tmp/back
        cmp /tmp/out /tmp/back && echo SAME $(sha256sum < /tmp/back)
        carrier 0; echo ALONE; carrier 1; echo AGAIN"
    );
    let first = Run::guest(&["--net", &net(",listen")], &script).start();
    first.wait_for("READY");
    let script = format!("{UP}{carrier}\n up 10.9.9.2/24; carrier 1; fetch 10.9.9.1 5001 5002");
    let second = Run::guest(&["--net", &net("")], &script).end().code(0);
    first.wait_for("ALONE");
    Run::guest(&["--net", &net("")], "sleep 3").end().code(0);
    let first = first.end().code(0).shows("CARRIER 0").shows("AGAIN");
    let sum = first.text();
    let sum = sum
        .split("SAME ")
        .nth(1)
        .expect("the bytes came back")
        .split_whitespace()
        .next()
        .unwrap();
    assert!(second.text().contains(sum), "{}", second.text());
    assert!(!socket.exists());
}
