//! A driver that does what it must not: its card asks for a reset or drops a packet, and nothing else happens.
use super::*;

fn needs_reset(bench: &Bench) {
    patiently("no reset is asked for", || bench.receive.signals.needs_reset());
}

#[test]
fn room_without_place_for_a_header_breaks_the_ring() {
    for rooms in [&[HEADER - 1][..], &[4, 4], &[]] {
        let (mut bench, far) = Bench::new(ALL);
        far.send(&packet(&frame(60, 1))).unwrap();
        if rooms.is_empty() {
            // To be read rather than written.
            bench.receive.add(&[&[0; 100]], &[2000]);
        } else {
            bench.receive.add(&[], rooms);
        }
        bench.receive.kick.write(1).unwrap();
        needs_reset(&bench);
    }
}

#[test]
fn a_packet_with_room_for_the_device_breaks_the_ring() {
    let (mut bench, _far) = Bench::new(ALL);
    bench.transmit.add(&[&packet(&frame(60, 1))], &[10]);
    bench.transmit.kick.write(1).unwrap();
    patiently("no reset is asked for", || bench.transmit.signals.needs_reset());
}

#[test]
fn loops_and_strange_addresses_break_the_ring() {
    for (at, len, flags, next) in [
        (0x1000, 100, 1, 0),
        (u64::MAX, 100, 0, 0),
        (0xf_ffff, 100, 0, 0),
        (0x20_0000, 100, 0, 0),
        (0x1000, u32::MAX, 0, 0),
        (0x1000, 100, 1, 64),
        (0x1000, 17, 4, 0),
        (0x1000, 0, 4, 0),
    ] {
        for queue in 0..3 {
            let (mut bench, _far) = Bench::new(ALL);
            let all = [&mut bench.receive, &mut bench.transmit, &mut bench.control];
            let driver = all.into_iter().nth(queue).unwrap();
            driver.descriptor(0, at, len, (flags, next));
            driver.publish(0);
            driver.kick.write(1).unwrap();
            patiently("no reset is asked for", || driver.signals.needs_reset());
        }
    }
}

#[test]
fn more_buffers_than_the_queue_holds_break_the_ring() {
    let (bench, _far) = Bench::new(ALL);
    bench.receive.set_available(65);
    bench.receive.kick.write(1).unwrap();
    needs_reset(&bench);
}

#[test]
fn packets_of_impossible_sizes_are_dropped_and_their_buffers_come_back() {
    let (mut bench, far) = Bench::new(ALL);
    let huge = vec![0; HEADER + MAX_FRAME + 1];
    let all: [&[&[u8]]; 5] = [
        &[&[]],
        &[&[0; 3]],
        &[&[0; HEADER]],
        &[&[0; HEADER], &[0; MIN_FRAME - 1]],
        &[&huge],
    ];
    for parts in all {
        bench.send(parts);
    }
    bench.send(&[&packet(&frame(60, 1))]);
    assert_eq!(arrival(&far), packet(&frame(60, 1)));
    let mut used = 0;
    patiently("buffers do not come back", || {
        used += bench.transmit.used().len();
        used == 6
    });
    assert!(!bench.transmit.signals.needs_reset());
}

#[test]
fn tiny_buffers_hold_a_large_packet() {
    let (mut bench, far) = Bench::new(ALL);
    // More pieces than one system call takes, in a ring too small for the largest packet.
    let mut at = Vec::new();
    for _ in 0..4 {
        at.extend(bench.receive.add(&[], &[100; 16]));
    }
    bench.receive.kick.write(1).unwrap();
    thread::sleep(Duration::from_millis(10));
    far.send(&packet(&frame(3000, 1))).unwrap();
    for _ in 0..12 {
        bench.receive.publish(0);
    }
    bench.receive.kick.write(1).unwrap();
    assert_eq!(bench.received(2), [1600, 1412]);
    assert_eq!(bench.receive.bytes(at[15], 100).len(), 100);
}

#[test]
fn a_driver_that_enables_too_little_cannot_start() {
    let (mut bench, _far) = Bench::new(ALL);
    bench.stop();
    let setup = |bench: &Bench, rings| Setup {
        memory: bench.receive.memory.clone(),
        features: bench.features,
        signals: bench.receive.signals.clone(),
        rings,
    };
    let only = setup(&bench, vec![bench.receive.ring(0)]);
    assert!(bench.net.start(only).is_err());
    // Without a control queue a card is still one, and rings that nobody serves come home.
    let more = setup(
        &bench,
        vec![bench.receive.ring(0), bench.transmit.ring(1), bench.control.ring(7)],
    );
    let workers = bench.net.start(more).unwrap();
    assert_eq!(workers.len(), 1);
    assert_eq!(bench.net.stop(workers).len(), 3);
}
