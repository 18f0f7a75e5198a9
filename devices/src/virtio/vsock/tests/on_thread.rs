//! The worker on an I/O thread, with the programs and the guest on threads of their own.
use super::{
    super::{Vsock, packet::Op},
    guest::{Guest, Layout, host},
    streams::{Talk, echo_partner},
};
use crate::virtio::{VirtioDevice, io_thread::IoThread, testing::memory};
use std::{
    collections::HashMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

fn next(guest: &mut Guest) -> (super::super::packet::Header, Vec<u8>) {
    let start = Instant::now();
    while guest.receive().is_empty() {
        assert!(start.elapsed().as_secs() < 20, "nothing comes");
        thread::yield_now();
    }
    guest.inbox.pop_front().unwrap()
}

/// Some MiB each way on several connections; `CORACLE_TEST_VSOCK_MIB=1024` makes it the real thing.
#[test]
fn much_data_each_way_on_several_connections() {
    let mib = std::env::var("CORACLE_TEST_VSOCK_MIB").map_or(8, |mib| mib.parse().unwrap());
    let (connections, len) = (4_u32, (mib << 20) / 4);
    let (host, _, dialed) = host(0, Instant::now);
    let mut device = Vsock::new(3, host);
    let mut guest = Guest::strict(&memory(), Layout::Together);
    let io = IoThread::spawn("io").unwrap();
    let queues = guest.queues();
    let worker = device.start(guest.setup(queues)).unwrap().pop().unwrap();
    let running = io.run(worker).unwrap();
    let mut talks = HashMap::new();
    let mut streams = Vec::new();
    for port in 1..=connections {
        guest.send(&Guest::header((port, 9), Op::Request), b"");
        let (response, _) = next(&mut guest);
        streams.push(dialed.recv().unwrap().1);
        talks.insert(port, Talk::new((port, 9), len, &response, 256 << 10));
    }
    let partners: Vec<_> = streams
        .into_iter()
        .map(|stream| echo_partner(stream, len, len))
        .collect();
    while talks.values().any(|talk| !talk.is_done(len)) {
        for talk in talks.values_mut() {
            talk.send(&mut guest);
        }
        guest.receive();
        while let Some((header, data)) = guest.inbox.pop_front() {
            let talk = talks.get_mut(&header.destination_port).unwrap();
            talk.take(&header, &data, &mut guest);
        }
    }
    for partner in partners {
        assert!(partner.join().unwrap());
    }
    assert_eq!(device.stop(vec![running.recall().unwrap()]).len(), 3);
}

#[test]
fn a_thousand_programs_connect_at_once() {
    if std::env::var_os("CORACLE_EMULATED_HOST").is_some() {
        return; // it allows 1024 open files
    }
    let (host, path, _) = host(0, Instant::now);
    let mut device = Vsock::new(3, host);
    let mut guest = Guest::strict(&memory(), Layout::Apart);
    let io = IoThread::spawn("io").unwrap();
    let queues = guest.queues();
    let worker = device.start(guest.setup(queues)).unwrap().pop().unwrap();
    let running = io.run(worker).unwrap();
    let clients = thread::spawn(move || {
        let dial = |n| {
            let mut client = UnixStream::connect(&path).unwrap();
            write!(client, "CONNECT {n}\nfrom {n:04}").unwrap();
            client
        };
        let clients: Vec<_> = (0..1000).map(dial).collect();
        for (n, mut client) in clients.into_iter().enumerate() {
            let mut answer = [0; 23];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[14..], *format!("from {n:04}").as_bytes());
        }
        std::fs::remove_file(path).unwrap();
    });
    // The guest sends back what it gets.
    while !clients.is_finished() {
        guest.receive();
        let Some((header, data)) = guest.inbox.pop_front() else {
            thread::yield_now();
            continue;
        };
        let ports = Guest::answering(&header);
        let (op, data) = match header.op {
            Op::Request => (Op::Response, b"".as_slice()),
            Op::Data => (Op::Data, data.as_slice()),
            _ => (Op::Reset, b"".as_slice()),
        };
        while !guest.try_send(&Guest::header(ports, op), data) {
            thread::yield_now();
        }
    }
    clients.join().unwrap();
    running.recall().unwrap();
}
