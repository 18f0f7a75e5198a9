#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;

const PORTS: Ports = Ports { guest: 5, host: 6 };

fn packet(op: Op) -> Header {
    Header {
        source_cid: 3,
        destination_cid: 2,
        source_port: 5,
        destination_port: 6,
        len: 0,
        kind: STREAM,
        op,
        flags: 0,
        room: 1000,
        forwarded: 0,
    }
}

fn data(len: u32) -> Header {
    Header {
        len,
        ..packet(Op::Data)
    }
}

fn open() -> Connection {
    let mut connection = Connection::accept(3, PORTS, 100, &packet(Op::Request));
    assert_eq!(connection.next().unwrap().op, Op::Response);
    connection
}

#[test]
fn a_request_waits_for_its_answer() {
    let mut connection = Connection::request(3, PORTS, 100);
    assert!(!connection.wants_data());
    let request = connection.next().unwrap();
    assert_eq!(
        (request.op, request.room, request.destination_cid),
        (Op::Request, 100, 3)
    );
    assert_eq!(connection.next(), None);
    assert_eq!(connection.packet(&packet(Op::Response)), Verdict::Opened);
    assert!(connection.wants_data());
    assert_eq!(connection.credit(), 1000);
}

#[test]
fn a_refused_request_can_be_repeated() {
    let mut connection = Connection::request(3, PORTS, 100);
    connection.next();
    assert_eq!(connection.packet(&packet(Op::Reset)), Verdict::Refused);
    connection.request_again();
    // Before it is sent, an answer is late.
    assert_eq!(connection.packet(&packet(Op::Reset)), Verdict::Nothing);
    assert_eq!(connection.next().unwrap().op, Op::Request);
    assert_eq!(connection.packet(&packet(Op::Response)), Verdict::Opened);
}

#[test]
fn a_request_that_was_not_sent_needs_no_reset() {
    let mut connection = Connection::request(3, PORTS, 100);
    connection.reset();
    assert!(connection.is_over());
    assert_eq!(connection.next(), None);
}

#[test]
fn credit_is_told_when_half_of_the_room_seems_taken() {
    let mut connection = open();
    assert_eq!(connection.packet(&data(50)), Verdict::Data);
    connection.forwarded(50);
    assert!(!connection.owes());
    assert_eq!(connection.packet(&data(50)), Verdict::Data);
    connection.forwarded(20);
    let update = connection.next().unwrap();
    assert_eq!((update.op, update.forwarded), (Op::CreditUpdate, 70));
    assert!(!connection.owes());
    // Data tell it too.
    connection.forwarded(30);
    assert_eq!(connection.data(1).forwarded, 100);
    assert!(!connection.owes());
}

#[test]
fn a_guest_with_less_room_than_ours_is_told_sooner() {
    let mut connection = Connection::accept(
        3,
        PORTS,
        100,
        &Header {
            room: 40,
            ..packet(Op::Request)
        },
    );
    while connection.next().is_some() {}
    let data = |len| Header { room: 40, ..data(len) };
    assert_eq!(connection.packet(&data(20)), Verdict::Data);
    connection.forwarded(20);
    assert!(!connection.owes());
    assert_eq!(connection.packet(&data(20)), Verdict::Data);
    connection.forwarded(1);
    assert_eq!(connection.next().unwrap().op, Op::CreditUpdate);
}

#[test]
fn more_than_the_room_breaks_the_rules() {
    let mut connection = open();
    assert_eq!(connection.packet(&data(101)), Verdict::Broken);
    assert_eq!(connection.next().unwrap().op, Op::Reset);
    assert!(connection.is_over());
    let mut connection = open();
    assert_eq!(connection.packet(&data(100)), Verdict::Data);
    connection.forwarded(10);
    assert_eq!(connection.packet(&data(10)), Verdict::Data);
    assert_eq!(connection.packet(&data(1)), Verdict::Broken);
}

#[test]
fn counters_wrap() {
    let mut connection = open();
    let room = packet(Op::CreditUpdate);
    let (mut sent, mut received) = (0_u64, 0_u64);
    while sent < 1 << 33 {
        let forwarded = sent as u32;
        let header = Header {
            room: 1 << 30,
            forwarded,
            ..room
        };
        assert_eq!(connection.packet(&header), Verdict::Nothing);
        assert_eq!(connection.credit(), 1 << 30);
        assert_eq!(connection.data(1 << 30).len, 1 << 30);
        assert_eq!(connection.credit(), 0);
        sent += 1 << 30;
        assert_eq!(connection.packet(&data(100)), Verdict::Data);
        connection.forwarded(100);
        received += 100;
        connection.ask_for_credit();
        assert_eq!(connection.next().unwrap().forwarded, received as u32);
    }
}

#[test]
fn credit_that_was_overtaken_is_no_news() {
    let mut connection = open();
    connection.data(1000);
    let told = |forwarded| Header {
        forwarded,
        ..packet(Op::CreditUpdate)
    };
    connection.packet(&told(800));
    connection.packet(&told(300));
    assert_eq!(connection.credit(), 800);
    // More than it got.
    connection.packet(&told(1001));
    assert_eq!(connection.credit(), 800);
}

#[test]
fn ends_are_told_once_and_after_the_response() {
    let mut connection = Connection::accept(3, PORTS, 100, &packet(Op::Request));
    connection.host_shutdown(Shutdown {
        send: true,
        receive: false,
    });
    assert_eq!(connection.next().unwrap().op, Op::Response);
    let end = connection.next().unwrap();
    assert_eq!((end.op, end.flags), (Op::Shutdown, 2));
    assert_eq!(connection.next(), None);
    connection.host_shutdown(Shutdown::BOTH);
    assert_eq!(connection.next().unwrap().flags, 3);
    assert_eq!(connection.told(), Shutdown::BOTH);
}

#[test]
fn who_has_ended_sends_nothing() {
    let mut connection = open();
    let end = Header {
        flags: 2,
        ..packet(Op::Shutdown)
    };
    assert_eq!(connection.packet(&end), Verdict::Shutdown);
    assert_eq!(connection.packet(&data(1)), Verdict::Broken);
}

/// A model of the guest that keeps to the rules, against random moves of both sides: neither exceeds its credit, nothing is
/// owed twice, and the connection ends.
#[test]
fn random_conversations_keep_to_the_rules() {
    for seed in 1..300_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut connection = open();
        // What the guest knows and has, and what the host still holds.
        let (mut sent, mut known, mut held) = (0_u32, 0_u32, 0_u32);
        let (mut received, mut forwarded) = (0_u32, 0_u32);
        for _ in 0..200 {
            match below(6) {
                0 => {
                    let len = below(u64::from(100 - sent.wrapping_sub(known)) + 1) as u32;
                    let header = Header { forwarded, ..data(len) };
                    assert_eq!(connection.packet(&header), Verdict::Data, "seed {seed}");
                    sent += len;
                    held += len;
                }
                1 => {
                    let n = below(u64::from(held) + 1) as u32;
                    connection.forwarded(n as usize);
                    held -= n;
                }
                2 => {
                    let len = (below(400) as u32).min(connection.credit());
                    assert!(received - forwarded + len <= 1000, "seed {seed}");
                    known = connection.data(len).forwarded;
                    received += len;
                }
                3 => forwarded += below(u64::from(received - forwarded) + 1) as u32,
                4 => {
                    connection.packet(&Header {
                        forwarded,
                        ..packet(Op::CreditRequest)
                    });
                }
                _ => {
                    let mut packets = 0;
                    while let Some(header) = connection.next() {
                        assert_eq!(header.op, Op::CreditUpdate);
                        known = header.forwarded;
                        packets += 1;
                    }
                    assert!(packets <= 1, "seed {seed}");
                    assert!(sent - known <= 50 || held > 0, "seed {seed}: the guest would stall");
                }
            }
        }
        connection.reset();
        assert_eq!(connection.next().unwrap().op, Op::Reset);
        assert_eq!((connection.next(), connection.is_over()), (None, true));
    }
}

/// Whatever a guest sends in whatever state, the connection answers with few packets and ends with one RST at most.
#[test]
fn random_packets_do_no_harm() {
    let ops = [
        Op::Request,
        Op::Response,
        Op::Shutdown,
        Op::Data,
        Op::CreditUpdate,
        Op::CreditRequest,
        Op::Reset,
        Op::Unknown(99),
    ];
    for seed in 0..4096_usize {
        let mut connection = if seed % 2 == 0 {
            open()
        } else {
            Connection::request(3, PORTS, 100)
        };
        let mut resets = 0;
        for step in 0..4 {
            let op = ops[seed >> (3 * step) & 7];
            let flags = (seed >> step) as u32 & 3;
            connection.packet(&Header {
                flags,
                forwarded: seed as u32,
                len: 30,
                ..packet(op)
            });
            let owed: Vec<_> = std::iter::from_fn(|| connection.next()).collect();
            assert!(owed.len() <= 3);
            resets += owed.iter().filter(|header| header.op == Op::Reset).count();
        }
        assert!(resets <= 1);
    }
}
