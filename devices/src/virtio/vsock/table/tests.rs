#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::{super::connect_line::ConnectLine, *};
use std::{os::unix::net::UnixStream, time::Duration};

fn peer() -> Peer {
    Peer::new(UnixStream::pair().unwrap().0.into(), Stage::Line(ConnectLine::new()))
}

#[test]
fn a_token_of_one_that_has_left_names_nobody() {
    let mut table = Table::default();
    let first = table.add(peer()).unwrap();
    assert!(table.remove(first).is_some());
    let second = table.add(peer()).unwrap();
    assert_ne!(first, second);
    assert!(table.get(first).is_none());
    assert!(table.remove(first).is_none());
    table.set_deadline(first, Some(Instant::now()));
    assert_eq!(table.first_deadline(), None);
    table.enqueue(first);
    assert!(!table.has_turns());
    assert_eq!(Token::from_data(second.data()), second);
    assert_eq!(table.len(), 1);
}

#[test]
fn it_is_everybody_s_turn_once() {
    let mut table = Table::default();
    let [a, b, c] = std::array::from_fn(|_| table.add(peer()).unwrap());
    for token in [a, b, a, c, b] {
        table.enqueue(token);
    }
    assert_eq!(table.next_turn(), Some(a));
    table.keep_turn(a);
    table.keep_turn(a);
    table.remove(b);
    assert_eq!(table.next_turn(), Some(a));
    assert_eq!(table.next_turn(), Some(c));
    assert_eq!(table.next_turn(), None);
}

#[test]
fn the_line_does_not_grow_by_those_who_come_and_go() {
    let mut table = Table::default();
    for _ in 0..1000 {
        let token = table.add(peer()).unwrap();
        table.enqueue(token);
        table.remove(token);
    }
    assert_eq!(table.turns.len(), 1);
}

#[test]
fn deadlines_come_in_their_order_and_once() {
    let mut table = Table::default();
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let [a, b, c] = std::array::from_fn(|_| table.add(peer()).unwrap());
    table.set_deadline(a, Some(at(30)));
    table.set_deadline(b, Some(at(20)));
    table.set_deadline(c, Some(at(10)));
    table.set_deadline(c, Some(at(40)));
    table.set_deadline(a, None);
    assert_eq!(table.first_deadline(), Some(at(20)));
    assert_eq!(table.due(at(19)), None);
    assert_eq!(table.due(at(50)), Some(b));
    table.remove(c);
    assert_eq!(table.due(at(50)), None);
}

#[test]
fn ports_are_not_given_twice() {
    let mut table = Table::default();
    let ports = table.free_port(80);
    assert_eq!(
        ports,
        Ports {
            guest: 80,
            host: 1 << 30
        }
    );
    let token = table.add(peer()).unwrap();
    table.link(
        token,
        Ports {
            guest: 80,
            host: (1 << 30) + 1,
        },
    );
    assert_eq!(table.free_port(80).host, (1 << 30) + 2);
    assert_eq!(
        table.find(Ports {
            guest: 80,
            host: (1 << 30) + 1
        }),
        Some(token)
    );
    table.clear();
    assert_eq!(table.free_port(80).host, (1 << 30) + 3, "late packets belong to nobody");
}
