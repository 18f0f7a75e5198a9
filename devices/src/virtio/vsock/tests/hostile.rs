//! A guest that means harm, or a table that is full.
use super::{
    super::{
        exchange::LARGE_WINDOW,
        packet::{Header, Op},
        table::MAX_PEERS,
    },
    guest::{Guest, Rig},
};
use crate::virtio::testing::{MEMORY, WRITE};
use std::io::{Read, Write};

#[test]
fn a_thousand_connections_and_a_clear_refusal_of_too_many() {
    if std::env::var_os("CORACLE_EMULATED_HOST").is_some() {
        return; // it allows 1024 open files
    }
    let mut rig = Rig::new();
    let mut clients = Vec::new();
    for n in 0..MAX_PEERS {
        let mut client = rig.connect();
        client.write_all(format!("CONNECT {n}\n").as_bytes()).unwrap();
        let (request, _) = rig.packet();
        let answer = Guest::header(Guest::answering(&request), Op::Response);
        rig.guest.send(&answer, b"");
        rig.turn();
        clients.push((client, answer));
    }
    let mut one_more = rig.connect();
    rig.turn();
    let mut answer = String::new();
    one_more.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("ERROR the guest has as many"), "{answer}");
    rig.guest.send(&Guest::header((1, 1), Op::Request), b"");
    assert_eq!(rig.packet().0.op, Op::Reset);
    for (n, (client, answer)) in clients.iter_mut().enumerate() {
        let text = n.to_string();
        rig.guest.send(
            &Header {
                op: Op::Data,
                ..*answer
            },
            text.as_bytes(),
        );
        rig.turn();
        let mut line = vec![0; 14 + text.len()];
        client.read_exact(&mut line).unwrap();
        assert_eq!(&line[14..], text.as_bytes());
    }
    drop(clients);
    while rig.peers() > 0 {
        rig.turn();
        rig.guest.receive();
        while let Some((header, _)) = rig.guest.inbox.pop_front() {
            assert_eq!(header.op, Op::Shutdown);
            rig.guest
                .send(&Guest::header(Guest::answering(&header), Op::Reset), b"");
            rig.turn();
        }
    }
    assert_eq!(rig.open(1).0, (1, 1000));
}

#[test]
fn a_flood_of_refusals_waits_for_receive_buffers() {
    let mut rig = Rig::new();
    for n in 0..1000 {
        let _ = rig.guest.try_send(&Guest::header((n, 5), Op::Data), b"");
        rig.turn();
    }
    let mut refused = 0;
    loop {
        rig.guest.receive();
        let n = rig.guest.inbox.drain(..).count();
        refused += n;
        rig.turn();
        if n == 0 {
            break;
        }
    }
    assert!(refused > 256, "{refused}");
    assert!(!rig.has_failed());
    rig.open(7);
}

#[test]
fn a_length_beyond_the_packet_ends_the_connection() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    rig.guest.send(
        &Header {
            len: 1000,
            ..Guest::header(ports, Op::Data)
        },
        b"short",
    );
    assert_eq!(rig.packet().0.op, Op::Reset);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    let huge = Header {
        len: u32::MAX,
        ..Guest::header((8, 1000), Op::Request)
    };
    rig.guest.send(&huge, b"");
    assert_eq!(rig.packet().0.op, Op::Response, "only data have a length that matters");
}

#[test]
fn packets_too_short_for_a_header_are_dropped() {
    let mut rig = Rig::new();
    rig.guest.tx.add(&[&[1; 43]], &[]);
    rig.guest.tx.add(&[], &[100]);
    rig.guest.tx.kick.write(1).unwrap();
    rig.turn();
    assert_eq!(rig.guest.tx.used().len(), 2);
    assert!(!rig.has_failed());
}

#[test]
fn receive_buffers_without_room_break_the_device() {
    for room in [43, 44] {
        let mut rig = Rig::new();
        let (_, mut server) = rig.open(7);
        server.set_nonblocking(true).unwrap();
        for slot in 0..200 {
            rig.guest.rx.descriptor(slot % 128, 0x10_0000 - 64, room, (WRITE, 0));
            rig.guest.rx.publish(slot % 128);
            if slot % 32 == 0 {
                let _ = server.write(&vec![1; 130_000]);
                rig.turn();
                rig.guest.rx.used();
            }
        }
        assert!(rig.has_failed());
        assert_eq!(rig.guest.count().config.load(std::sync::atomic::Ordering::Relaxed), 1);
        // The host's programs are let go of with the device's reset.
        rig.reset();
        rig.open(7);
    }
}

#[test]
fn buffers_outside_memory_break_the_device() {
    let mut rig = Rig::new();
    rig.guest.tx.descriptor(0, MEMORY - 10, 44, (0, 0));
    rig.guest.tx.publish(0);
    rig.guest.tx.kick.write(1).unwrap();
    rig.turn();
    assert!(rig.has_failed());
    let mut client = rig.connect();
    client.write_all(b"CONNECT 1\n").unwrap();
    rig.turn();
}

#[test]
fn a_second_request_for_the_same_ports_ends_both() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    rig.guest.send(&Guest::header(ports, Op::Request), b"");
    assert_eq!(rig.packet().0.op, Op::Reset);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn what_waits_for_a_program_is_bounded_by_the_window() {
    let mut rig = Rig::new();
    let (ports, server) = rig.open(7);
    let (mut sent, mut over) = (0, false);
    while !over {
        rig.guest.send(&Guest::header(ports, Op::Data), &vec![0; 65_000]);
        sent += 65_000;
        rig.turn();
        rig.guest.receive();
        over = rig.guest.inbox.drain(..).any(|(header, _)| header.op == Op::Reset);
    }
    assert!(sent < 2 * LARGE_WINDOW as usize + (1 << 20), "{sent}");
    drop(server);
}
