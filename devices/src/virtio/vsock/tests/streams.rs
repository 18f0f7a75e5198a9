//! Data in bulk: intact, within credit, and fair.
use super::{
    super::packet::{Header, Op},
    guest::{Guest, Layout, MAX_PACKET, Rig},
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

/// Random numbers that are the same in each run (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// The bytes at `at` of a stream in which no short piece repeats.
pub fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len)
        .map(|at| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// Writes a stream in pieces of random sizes, and reads one; gives what was wrong.
pub fn echo_partner(mut stream: UnixStream, send: usize, receive: usize) -> thread::JoinHandle<bool> {
    let mut reader = stream.try_clone().unwrap();
    let reading = thread::spawn(move || {
        let (mut random, mut at) = (Random(77), 0);
        let mut bytes = vec![0; 200_000];
        while at < receive {
            let len = 1 + random.below(bytes.len());
            let n = reader.read(&mut bytes[..len]).unwrap();
            if n == 0 || bytes[..n] != pattern(at, n) {
                return false;
            }
            at += n;
        }
        true
    });
    thread::spawn(move || {
        let (mut random, mut at) = (Random(99), 0);
        while at < send {
            let len = (1 + random.below(200_000)).min(send - at);
            stream.write_all(&pattern(at, len)).unwrap();
            at += len;
        }
        reading.join().unwrap()
    })
}

/// The guest's part in a stream each way, which keeps to the credit it has, and checks that the device does.
pub struct Talk {
    pub ports: (u32, u32),
    pub sent: usize,
    pub received: usize,
    to_send: usize,
    room: u32,
    host_room: u32,
    host_forwarded: u32,
    random: Random,
}

impl Talk {
    pub fn new(ports: (u32, u32), to_send: usize, response: &Header, room: u32) -> Self {
        Self {
            ports,
            sent: 0,
            received: 0,
            to_send,
            room,
            host_room: response.room,
            host_forwarded: response.forwarded,
            random: Random(u64::from(ports.0) + 1),
        }
    }

    fn header(&self, op: Op) -> Header {
        Header {
            room: self.room,
            forwarded: self.received as u32,
            ..Guest::header(self.ports, op)
        }
    }

    /// Takes what has come for this connection.
    pub fn take(&mut self, header: &Header, data: &[u8], guest: &mut Guest) {
        self.host_room = header.room;
        self.host_forwarded = header.forwarded;
        if header.op == Op::Data {
            assert!(
                data == pattern(self.received, data.len()),
                "other data at {}",
                self.received
            );
            let before = self.received;
            self.received += data.len();
            let step = self.room as usize / 4;
            if before / step != self.received / step {
                while !guest.try_send(&self.header(Op::CreditUpdate), b"") {}
            }
        }
    }

    /// Sends a piece, if there is credit and a slot.
    pub fn send(&mut self, guest: &mut Guest) {
        let on_the_way = (self.sent as u32).wrapping_sub(self.host_forwarded);
        assert!(on_the_way <= self.host_room);
        let len = (1 + self.random.below(MAX_PACKET))
            .min((self.host_room - on_the_way) as usize)
            .min(self.to_send - self.sent);
        if len > 0 && guest.try_send(&self.header(Op::Data), &pattern(self.sent, len)) {
            self.sent += len;
        }
    }

    pub fn is_done(&self, to_receive: usize) -> bool {
        self.sent == self.to_send && self.received == to_receive
    }
}

#[test]
fn a_stream_each_way_arrives_intact_in_every_layout() {
    for layout in [Layout::Apart, Layout::Together, Layout::Pieces] {
        let len = 3 << 20;
        let mut rig = Rig::with(layout);
        rig.guest.send(&Guest::header((9, 1000), Op::Request), b"");
        let (response, _) = rig.packet();
        let mut talk = Talk::new((9, 1000), len, &response, 100_000);
        let partner = echo_partner(rig.dialed().unwrap(), len, len);
        while !talk.is_done(len) {
            talk.send(&mut rig.guest);
            rig.turn();
            rig.guest.receive();
            while let Some((header, data)) = rig.guest.inbox.pop_front() {
                talk.take(&header, &data, &mut rig.guest);
                rig.turn();
            }
        }
        while !partner.is_finished() {
            rig.turn();
        }
        assert!(partner.join().unwrap());
    }
}

#[test]
fn the_guest_s_room_is_never_exceeded_and_asked_for_in_the_end() {
    let mut rig = Rig::new();
    rig.guest.send(
        &Header {
            room: 10_000,
            ..Guest::header((9, 1000), Op::Request)
        },
        b"",
    );
    rig.packet();
    let mut server = rig.dialed().unwrap();
    server.write_all(&vec![1; 50_000]).unwrap();
    rig.turn();
    let got: usize = rig.guest.receive().drain(..).map(|(_, data)| data.len()).sum();
    assert_eq!(got, 10_000);
    rig.pass(200);
    assert_eq!(rig.packet().0.op, Op::CreditRequest);
    rig.pass(399);
    assert!(rig.guest.receive().is_empty(), "it is not pestered");
    rig.pass(1);
    assert_eq!(rig.packet().0.op, Op::CreditRequest);
    let update = Header {
        room: 10_000,
        forwarded: 4000,
        ..Guest::header((9, 1000), Op::CreditUpdate)
    };
    rig.guest.send(&update, b"");
    rig.turn();
    let got: usize = rig.guest.receive().drain(..).map(|(_, data)| data.len()).sum();
    assert_eq!(got, 4000);
    // Nonsense is no credit.
    rig.guest.send(
        &Header {
            forwarded: 4_000_000,
            ..update
        },
        b"",
    );
    rig.turn();
    assert!(rig.guest.receive().is_empty());
}

#[test]
fn the_guest_that_exceeds_its_credit_loses_the_connection() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    let mut last = None;
    for _ in 0..40 {
        rig.guest.send(&Guest::header(ports, Op::Data), &vec![7; 60_000]);
        rig.turn();
        rig.guest.receive();
        last = rig.guest.inbox.drain(..).next_back().or(last);
        if last.as_ref().is_some_and(|(header, _)| header.op == Op::Reset) {
            break;
        }
    }
    assert_eq!(last.unwrap().0.op, Op::Reset);
    assert_eq!(rig.peers(), 0);
    let _ = server.read_to_end(&mut Vec::new());
}

#[test]
fn credit_comes_back_when_a_slow_program_reads() {
    let mut rig = Rig::new();
    let (ports, mut server) = rig.open(7);
    for _ in 0..16 {
        rig.guest.send(&Guest::header(ports, Op::Data), &vec![7; 60_000]);
        rig.turn();
    }
    rig.guest.receive();
    let known = rig
        .guest
        .inbox
        .drain(..)
        .next_back()
        .map_or(0, |(header, _)| header.forwarded);
    let mut left = 16 * 60_000;
    while left > 0 {
        left -= server.read(&mut vec![0; 100_000]).unwrap();
        rig.turn();
    }
    rig.guest.receive();
    let (update, _) = rig.guest.inbox.drain(..).next_back().unwrap();
    assert_eq!(update.op, Op::CreditUpdate);
    assert!(update.forwarded > known);
    rig.guest.send(&Guest::header(ports, Op::CreditRequest), b"");
    assert_eq!(rig.packet().0.forwarded, 16 * 60_000);
}

#[test]
fn one_connection_with_much_to_say_does_not_keep_others_waiting() {
    let mut rig = Rig::new();
    let (_, mut soft) = rig.open(1);
    let loud: Vec<_> = (2..5).map(|port| rig.open(port).1).collect();
    // Together they have more than all receive buffers take.
    for mut loud in &loud {
        loud.set_nonblocking(true).unwrap();
        while loud.write(&[1; 4096]).is_ok() {}
    }
    rig.turn();
    soft.write_all(b"hello").unwrap();
    rig.turn();
    rig.guest.receive();
    assert!(
        rig.guest
            .inbox
            .drain(..)
            .all(|(header, _)| header.destination_port != 1)
    );
    rig.turn();
    rig.guest.receive();
    let inbox = &rig.guest.inbox;
    let first = inbox
        .iter()
        .position(|(header, _)| header.destination_port == 1)
        .unwrap();
    let before: usize = inbox.iter().take(first).map(|(_, data)| data.len()).sum();
    assert!(before <= loud.len() * (64 << 10), "{before} bytes before it");
}

#[test]
fn full_receive_queues_cost_nothing_while_they_last() {
    let mut rig = Rig::new();
    let (_, mut server) = rig.open(1);
    server.set_nonblocking(true).unwrap();
    // The guest gives no buffers back.
    while server.write(&[1; 4096]).is_ok() {}
    rig.turn();
    for _ in 0..10 {
        rig.turn(); // fails if the worker spins
    }
    let mut got = 0;
    while rig.guest.receive().iter().any(|(_, data)| !data.is_empty()) {
        got += rig.guest.inbox.drain(..).map(|(_, data)| data.len()).sum::<usize>();
        rig.turn();
    }
    assert!(got > 100_000, "{got}");
}
