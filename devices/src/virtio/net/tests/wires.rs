//! Cards on sockets: frames in a stream, and two cards with a link between them.
use super::*;

/// A wire without an end yet, and how often its carrier came (low half) and went.
fn wire(framing: Framing) -> (Arc<Wire>, Arc<[AtomicU32; 2]>) {
    let seen = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let counts = seen.clone();
    let on_carrier = move |up: bool| {
        counts[usize::from(!up)].fetch_add(1, Ordering::Relaxed);
    };
    (Arc::new(Wire::new(framing, Box::new(on_carrier))), seen)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

#[test]
fn a_stream_has_no_offloads_and_carries_frames_both_ways() {
    use std::io::{Read, Write};
    let (wire, _) = wire(Framing::Stream);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    wire.connect(ours.into()).unwrap();
    let mut bench = Bench::on(Port::Wire(wire), ALL);
    assert_eq!(
        bench.features & feature::OFFLOADS.iter().fold(0, |all, bit| all | 1 << bit),
        0
    );
    let at = bench.give(10);
    theirs
        .write_all(&[framed(&frame(100, 1)), framed(&frame(1514, 2))].concat())
        .unwrap();
    assert_eq!(bench.received(2), [112, 1526]);
    assert_eq!(bench.receive.bytes(at[1] + HEADER as u64, 1514), frame(1514, 2));
    assert_eq!(bench.receive.bytes(at[0], HEADER), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    bench.send(&[&packet(&frame(1000, 3))]);
    bench.send(&[&packet(&frame(60, 4))]);
    let expected = [framed(&frame(1000, 3)), framed(&frame(60, 4))].concat();
    let mut bytes = vec![0; expected.len()];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn a_slow_end_holds_packets_up_and_loses_none() {
    use std::io::Read;
    let (wire, _) = wire(Framing::Stream);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    wire.connect(ours.into()).unwrap();
    let mut bench = Bench::on(Port::Wire(wire), ALL);
    let frames: Vec<_> = (0..60).map(|seed| frame(7000, seed)).collect();
    for frame in &frames {
        bench.send(&[&packet(frame)]);
    }
    thread::sleep(Duration::from_millis(20));
    let expected: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    // A pause in the middle of a frame keeps the framing.
    bench.stop();
    bench.start();
    bench.transmit.kick.write(1).unwrap();
    let mut bytes = vec![0; expected.len()];
    theirs.read_exact(&mut bytes).unwrap();
    assert!(bytes == expected);
}

#[test]
fn a_wire_whose_end_goes_waits_for_the_next() {
    let (wire, seen) = wire(Framing::Messages);
    let mut bench = Bench::on(Port::Wire(wire.clone()), ALL);
    bench.give(60);
    let count = |index: usize| seen[index].load(Ordering::Relaxed);
    // Without an end, packets are lost and their buffers come back.
    bench.send(&[&packet(&frame(60, 1))]);
    patiently("the buffer does not come back", || !bench.transmit.used().is_empty());
    for round in 1..4 {
        let (ours, theirs) = seqpacket_pair();
        wire.connect(ours).unwrap();
        assert_eq!(count(0), round);
        let far = Bench::on_end(theirs);
        bench.send(&[&packet(&frame(60, 2))]);
        assert_eq!(arrival(&far), packet(&frame(60, 2)));
        far.send(&packet(&frame(70, 3))).unwrap();
        assert_eq!(bench.received(1), [82]);
        drop(far);
        patiently("the loss is not noticed", || count(1) == round);
    }
}

#[test]
fn two_cards_exchange_unfinished_packets_and_finish_them_for_a_plain_driver() {
    for features in [ALL, PLAIN] {
        let (near, _) = wire(Framing::Messages);
        let (far, _) = wire(Framing::Messages);
        let (ours, theirs) = seqpacket_pair();
        near.connect(ours).unwrap();
        far.connect(theirs).unwrap();
        let mut sender = Bench::on(Port::Wire(near), ALL);
        let mut receiver = Bench::on(Port::Wire(far), features);
        let at = receiver.give(60);
        // UDP over IPv4 with only the pseudo-header in its checksum, as the kernel leaves it.
        let mut udp = frame(14 + 20 + 8 + 10, 1);
        udp[34 + 6..34 + 8].copy_from_slice(&[0x12, 0x34]);
        let mut sent = packet(&udp);
        sent[..10].copy_from_slice(&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);
        sender.send(&[&sent]);
        // A large one, which only a driver with offloads gets.
        let mut large = packet(&frame(20_000, 2));
        large[..10].copy_from_slice(&[1, 1, 0, 0, 0xb4, 5, 34, 0, 16, 0]);
        sender.send(&[&large]);
        sender.send(&[&packet(&frame(90, 3))]);
        let plain = features == PLAIN;
        let count = if plain { 2 } else { 1 + 20_012_usize.div_ceil(ROOM) + 1 };
        let lengths = receiver.received(count);
        assert_eq!((lengths[0], lengths[count - 1]), (64, 102));
        let got = receiver.receive.bytes(at[0], 64);
        if plain {
            let mut sum = offload::Sum::default();
            sum.add(&udp[34..]);
            udp[40..42].copy_from_slice(&sum.finish());
            assert_eq!((&got[..10], &got[HEADER..]), (&[0; 10][..], &udp[..]));
        } else {
            assert_eq!((&got[..10], &got[HEADER..]), (&sent[..10], &udp[..]));
        }
    }
}

/// A socket of messages that notices the end of the other.
fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    let (one, other) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )
    .unwrap();
    (one, other)
}

impl Bench {
    /// The other end of a wire, for [`arrival`].
    fn on_end(end: OwnedFd) -> UnixDatagram {
        UnixDatagram::from(end)
    }
}
