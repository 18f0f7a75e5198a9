#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::packet::{Header, Op, Shutdown};
use guest::{Guest, Rig};
use std::io::{Read, Write};

mod guest;
mod hostile;
mod on_thread;
mod streams;

#[test]
fn a_program_on_the_host_reaches_the_guest() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"connect 80\nhello").unwrap();
    let request = rig.packet();
    assert_eq!((request.0.op, request.0.destination_port), (Op::Request, 80));
    assert_eq!((request.0.source_cid, request.0.destination_cid), (2, 3));
    let ports = Guest::answering(&request.0);
    rig.guest.send(&Guest::header(ports, Op::Response), b"");
    let (header, data) = rig.packet();
    assert_eq!((header.op, data.as_slice()), (Op::Data, b"hello".as_slice()));
    let mut answer = [0; 14];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"OK 1073741824\n");
    rig.guest.send(&Guest::header(ports, Op::Data), b"good day");
    rig.turn();
    let mut data = [0; 8];
    client.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"good day");
}

#[test]
fn the_guest_reaches_a_program_on_the_host() {
    let mut rig = Rig::new();
    let ports = (5000, 80);
    rig.guest.send(&Guest::header(ports, Op::Request), b"");
    assert_eq!(rig.packet().0.op, Op::Response);
    let mut server = rig.dialed().unwrap();
    rig.guest.send(&Guest::header(ports, Op::Data), b"hello");
    rig.turn();
    let mut data = [0; 5];
    server.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"hello");
    server.write_all(b"good day").unwrap();
    assert_eq!(rig.packet().1, b"good day");
}

#[test]
fn a_port_that_nobody_serves_is_refused() {
    let mut rig = Rig::new();
    rig.guest
        .send(&Guest::header((5000, Rig::CLOSED_PORT), Op::Request), b"");
    let (header, _) = rig.packet();
    assert_eq!((header.op, header.destination_port), (Op::Reset, 5000));
}

#[test]
fn a_refusal_by_the_guest_closes_the_program_s_socket() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"CONNECT 80\n").unwrap();
    let ports = Guest::answering(&rig.packet().0);
    rig.guest.send(&Guest::header(ports, Op::Reset), b"");
    rig.turn();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn who_waits_is_connected_when_the_guest_listens() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"CONNECT 80 WAIT 500\n").unwrap();
    let ports = Guest::answering(&rig.packet().0);
    for _ in 0..3 {
        rig.guest.send(&Guest::header(ports, Op::Reset), b"");
        rig.turn();
        assert!(rig.guest.receive().is_empty(), "it waits before it asks again");
        rig.pass(20);
        assert_eq!(rig.packet().0.op, Op::Request);
    }
    rig.guest.send(&Guest::header(ports, Op::Response), b"");
    rig.turn();
    assert_eq!(client.read(&mut [0; 32]).unwrap(), 14);
}

#[test]
fn waiting_ends_when_the_time_is_over() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"CONNECT 80 WAIT 50\n").unwrap();
    let ports = Guest::answering(&rig.packet().0);
    for ms in [20, 20, 10] {
        rig.guest.send(&Guest::header(ports, Op::Reset), b"");
        rig.turn();
        rig.pass(ms);
        rig.guest.receive();
    }
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn a_guest_that_does_not_answer_is_not_waited_for() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"CONNECT 80\n").unwrap();
    assert_eq!(rig.packet().0.op, Op::Request);
    rig.pass(10_000);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(rig.packet().0.op, Op::Reset);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn a_line_may_come_byte_by_byte_and_holds_up_nobody() {
    let mut rig = Rig::new();
    let mut slow = rig.connect();
    let mut quick = rig.connect();
    let line = b"CONNECT 1\n";
    for (at, byte) in line.iter().enumerate() {
        slow.write_all(&[*byte]).unwrap();
        rig.turn();
        if at == 4 {
            quick.write_all(b"CONNECT 2\n").unwrap();
            assert_eq!(rig.packet().0.destination_port, 2);
        }
    }
    assert_eq!(rig.packet().0.destination_port, 1);
}

#[test]
fn a_line_that_never_ends_is_given_up() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"CONN").unwrap();
    rig.turn();
    rig.pass(10_000);
    let mut answer = String::new();
    // What was sent and never read resets the connection after the answer.
    let _ = client.read_to_string(&mut answer);
    assert!(answer.starts_with("ERROR no CONNECT line"), "{answer}");
}

#[test]
fn a_wrong_line_is_answered_and_ends() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    rig.turn();
    let mut answer = [0; 14];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ERROR expected");
    assert_eq!(rig.peers(), 0);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    server.write_all(b"last words").unwrap();
    server.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rig.packet().1, b"last words");
    let (end, _) = rig.packet();
    assert_eq!((end.op, end.flags), (Op::Shutdown, 2));
    rig.guest.send(&Guest::header(ports, Op::Data), b"and more");
    rig.guest.shutdown(
        ports,
        Shutdown {
            send: true,
            receive: false,
        },
    );
    rig.turn();
    let mut all = String::new();
    server.read_to_string(&mut all).unwrap();
    assert_eq!(all, "and more");
    drop(server);
    // Both sides have ended all now; the guest says so last.
    rig.turn();
    rig.guest.shutdown(ports, Shutdown::BOTH);
    assert_eq!(rig.last_op(), Op::Reset);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn the_end_of_the_guest_does_not_keep_the_host_from_sending() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    rig.guest.shutdown(
        ports,
        Shutdown {
            send: true,
            receive: false,
        },
    );
    rig.turn();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    server.write_all(b"still here").unwrap();
    assert_eq!(rig.packet().1, b"still here");
}

#[test]
fn a_guest_that_does_not_receive_is_not_sent_to() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    rig.guest.shutdown(
        ports,
        Shutdown {
            send: false,
            receive: true,
        },
    );
    rig.turn();
    assert!(server.write_all(&[1; 8]).is_err(), "its socket says so");
    rig.guest.send(&Guest::header(ports, Op::Data), b"hi");
    rig.turn();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 2);
    drop(server);
    let (end, _) = rig.packet();
    assert_eq!((end.op, end.flags), (Op::Shutdown, 3));
}

#[test]
fn a_closed_socket_is_told_and_let_go_of_in_the_end() {
    let mut rig = Rig::new();
    let (_, server) = rig.open(7);
    drop(server);
    let (end, _) = rig.packet();
    assert_eq!((end.op, end.flags), (Op::Shutdown, 3));
    assert_eq!(rig.peers(), 1);
    rig.pass(8000);
    assert_eq!(rig.packet().0.op, Op::Reset);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn what_the_guest_sent_before_its_end_still_reaches_a_slow_program() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    let data = vec![5; 60_000];
    for _ in 0..10 {
        rig.guest.send(&Guest::header(ports, Op::Data), &data);
        rig.turn();
    }
    rig.guest.shutdown(ports, Shutdown::BOTH);
    rig.guest.send(&Guest::header(ports, Op::Reset), b"");
    rig.turn();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        server.read_to_end(&mut all).map(|_| all)
    });
    while !reader.is_finished() {
        rig.turn();
    }
    assert_eq!(reader.join().unwrap().unwrap(), vec![5; 600_000]);
    assert_eq!(rig.peers(), 0);
}

#[test]
fn a_packet_of_no_connection_is_refused_but_a_refusal_is_not() {
    let mut rig = Rig::new();
    for op in [
        Op::Response,
        Op::Shutdown,
        Op::Data,
        Op::CreditUpdate,
        Op::CreditRequest,
        Op::Unknown(9),
    ] {
        rig.guest.send(&Guest::header((1, 2), op), b"");
        let (header, _) = rig.packet();
        assert_eq!(
            (header.op, header.source_port, header.destination_port),
            (Op::Reset, 2, 1)
        );
    }
    rig.guest.send(&Guest::header((1, 2), Op::Reset), b"");
    rig.turn();
    assert!(rig.guest.receive().is_empty());
}

#[test]
fn other_types_are_refused_and_other_addresses_ignored() {
    let mut rig = Rig::new();
    let request = Guest::header((1, 2), Op::Request);
    rig.guest.send(&Header { kind: 2, ..request }, b"");
    let (header, _) = rig.packet();
    assert_eq!((header.op, header.kind), (Op::Reset, 2));
    rig.guest.send(
        &Header {
            source_cid: 4,
            ..request
        },
        b"",
    );
    rig.guest.send(
        &Header {
            destination_cid: 1,
            ..request
        },
        b"",
    );
    rig.turn();
    assert!(rig.guest.receive().is_empty());
}

#[test]
fn connections_outlive_a_pause_but_not_a_reset() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    server.write_all(b"before").unwrap();
    rig.pause();
    server.write_all(b" and after").unwrap();
    rig.resume();
    assert_eq!(rig.packet().1, b"before and after");
    assert!(rig.guest.events().is_empty(), "a pause is nobody's business");
    rig.guest.send(&Guest::header(ports, Op::Data), b"x");
    rig.turn();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 1);
    rig.reset();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    let (_, mut server) = rig.open(8);
    server.write_all(b"again").unwrap();
    assert_eq!(rig.packet().1, b"again");
}

#[test]
fn after_a_snapshot_the_guest_is_told_before_it_gets_packets() {
    let mut rig = Rig::new();
    rig.pause();
    rig.device.announce_reset();
    rig.resume();
    let mut client = rig.connect();
    client.write_all(b"CONNECT 80\n").unwrap();
    rig.turn();
    assert!(rig.guest.receive().is_empty(), "not before it is told");
    rig.guest.offer_event();
    rig.turn();
    assert_eq!(rig.guest.events(), [0]);
    rig.turn();
    assert!(rig.guest.receive().is_empty(), "not before it has taken note");
    rig.guest.offer_event();
    assert_eq!(rig.packet().0.op, Op::Request);
}

#[test]
fn few_interrupts_for_what_the_guest_has_sent() {
    let mut rig = Rig::new();
    let (ports, _server) = rig.open(7);
    rig.pass(10);
    let before = rig.guest.interrupts();
    for _ in 0..5 {
        rig.guest.send(&Guest::header(ports, Op::Data), b"x");
        rig.turn();
    }
    assert_eq!(rig.guest.interrupts(), before);
    rig.pass(10);
    assert_eq!(rig.guest.interrupts(), before + 1);
}
