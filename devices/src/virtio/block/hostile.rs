//! A driver that breaks every rule. Whatever it does costs it its own device and nothing else, and the disk changes only
//! where the driver could have written anyway.
use super::{
    testing::{ALL, Bench, header},
    *,
};
use crate::virtio::testing::{Driver, HIGH, INDIRECT, MEMORY, NEXT, WRITE};
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{Bytes, GuestAddress};

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::Async];
/// Where headers and data are.
const HEADER: u64 = 0x20_000;
const DATA: u64 = 0x30_000;

/// Descriptors: address, length, flags, next.
type Table<'a> = &'a [(u64, u32, u16, u16)];

/// What became of a chain that starts at descriptor 0 of this table.
fn outcome(engine: Engine, kind: u32, table: Table<'_>) -> (bool, Vec<(u32, u32)>) {
    let mut bench = Bench::new(engine);
    let driver = &mut bench.driver;
    driver
        .memory
        .write_slice(&header(kind, 0), GuestAddress(HEADER))
        .unwrap();
    for (index, (at, len, flags, next)) in (0..).zip(table) {
        driver.descriptor(index, *at, *len, (*flags, *next));
    }
    driver.publish(0);
    bench.serve();
    let broken = bench.driver.signals.needs_reset();
    let used = bench.driver.used();
    // After a reset the device works as ever.
    bench.stop();
    bench.driver = Driver::new(16);
    bench.start(ALL);
    assert_eq!(bench.request(0, 0, &[], 512).0, 0, "{table:?}");
    (broken, used)
}

const HEAD: (u64, u32, u16, u16) = (HEADER, 16, NEXT, 1);
const STATUS: (u64, u32, u16, u16) = (DATA, 1, WRITE, 0);

#[test]
fn broken_chains_cost_the_device() {
    let tables: &[Table<'_>] = &[
        // Loops: onto itself, in two steps, back to the head.
        &[(HEADER, 16, NEXT, 0)],
        &[HEAD, (DATA, 1, NEXT | WRITE, 2), (DATA, 1, NEXT | WRITE, 1)],
        &[HEAD, (DATA, 1, NEXT | WRITE, 0)],
        // Outside memory: beyond it, in the gap, across the end of a region, across the end of the address space.
        &[HEAD, (HIGH + MEMORY, 1, WRITE, 0)],
        &[HEAD, (MEMORY, 512, WRITE, 0)],
        &[HEAD, (MEMORY - 256, 512, WRITE, 0)],
        &[HEAD, (u64::MAX - 10, 512, WRITE, 0)],
        &[(MEMORY - 8, 16, NEXT, 1), STATUS],
        &[HEAD, (DATA, u32::MAX, WRITE, 0)],
        // Beyond the table, and in an order that no driver may use.
        &[(HEADER, 16, NEXT, 64), STATUS],
        &[(HEADER, 16, NEXT, u16::MAX), STATUS],
        &[(DATA, 1, NEXT | WRITE, 1), (HEADER, 16, 0, 0)],
        // No room for a status.
        &[(HEADER, 16, 0, 0)],
        &[HEAD, (DATA, 0, WRITE, 0)],
        &[(HEADER, 0, 0, 0)],
        // Indirect tables: nested, continued, empty, of an odd length, outside memory, too long, in the middle.
        &[(HEADER, 16, INDIRECT | NEXT, 1), STATUS],
        &[(DATA, 0, INDIRECT, 0)],
        &[(DATA, 24, INDIRECT, 0)],
        &[(MEMORY, 32, INDIRECT, 0)],
        &[(DATA, 16 * 5000, INDIRECT, 0)],
        &[HEAD, (DATA, 32, INDIRECT | WRITE, 0)],
        &[(0x1000, 16, INDIRECT, 0)],
    ];
    for engine in ENGINES {
        for table in tables {
            assert_eq!(outcome(engine, 0, table), (true, vec![]), "{table:?}");
        }
    }
}

#[test]
fn odd_requests_cost_their_status() {
    let cases: &[(u32, Table<'_>, u32)] = &[
        // No data, wrong direction, odd lengths, data larger than the disk.
        (0, &[HEAD, STATUS], 1),
        (1, &[HEAD, STATUS], 1),
        (0, &[HEAD, (DATA, 512, NEXT, 2), (DATA, 1, WRITE, 0)], 1),
        (1, &[HEAD, (DATA, 512, NEXT | WRITE, 2), (DATA, 1, WRITE, 0)], 0),
        (0, &[HEAD, (DATA, 511, NEXT | WRITE, 2), (DATA, 1, WRITE, 0)], 0),
        (0, &[HEAD, (DATA, 0, NEXT | WRITE, 2), (DATA, 1, WRITE, 0)], 1),
        (8, &[HEAD, (DATA, 3, WRITE, 0)], 0),
        (u32::MAX, &[HEAD, (DATA, 3, WRITE, 0)], 0),
        (11, &[HEAD, STATUS], 1),
        (13, &[(HEADER, 18, NEXT, 1), STATUS], 1),
        // Nothing but a status, and a header that is too short.
        (0, &[STATUS], 1),
        (0, &[(HEADER, 15, NEXT, 1), STATUS], 1),
    ];
    for engine in ENGINES {
        for (kind, table, written) in cases {
            assert_eq!(
                outcome(engine, *kind, table),
                (false, vec![(0, *written)]),
                "{kind} {table:?}"
            );
        }
    }
}

#[test]
fn a_request_may_write_into_its_own_header_and_ring() {
    for engine in ENGINES {
        // Onto the header, the descriptors, and the available ring.
        for at in [HEADER, 0x1000, 0x4000] {
            let (broken, used) = outcome(engine, 0, &[HEAD, (at, 512, NEXT | WRITE, 2), (DATA, 1, WRITE, 0)]);
            // What is read over the available ring is no ring any more; io_uring may see that before the request ends.
            assert!(
                used.first() == Some(&(0, 513)) || broken && engine == Engine::Async,
                "{engine:?} {at:#x}"
            );
        }
    }
}

#[test]
fn more_than_the_queue_holds_is_refused() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        bench.driver.set_available(65);
        bench.serve();
        assert!(bench.driver.signals.needs_reset());
        assert_eq!(bench.driver.used(), []);
        // A failed ring stays alone until a reset, whatever is kicked.
        bench.driver.set_available(1);
        bench.serve();
        assert_eq!(bench.driver.used(), []);
    }
}

#[test]
fn descriptors_that_change_meanwhile_do_no_harm() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        let memory = bench.driver.memory.clone();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut state = 1_u32;
                while !stop.load(Ordering::Relaxed) {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Addresses, lengths, flags and successors of the first descriptors, and the header.
                    let at = if state >> 31 == 0 { 0x1000 } else { HEADER } + u64::from(state >> 8 & 0x3f);
                    let _ = memory.write_obj((state >> 16) as u8, GuestAddress(at));
                }
            });
            for _ in 0..300 {
                bench
                    .driver
                    .memory
                    .write_slice(&header(0, 1), GuestAddress(HEADER))
                    .unwrap();
                for (index, (at, len, flags, next)) in
                    (0..).zip([HEAD, (DATA, 512, NEXT | WRITE, 2), (DATA, 1, WRITE, 0)])
                {
                    bench.driver.descriptor(index, at, len, (flags, next));
                }
                bench.driver.publish(0);
                bench.serve();
                if bench.driver.signals.needs_reset() {
                    bench.stop();
                    bench.driver = Driver::at(bench.driver.memory.clone(), 64, 0);
                    bench
                        .driver
                        .memory
                        .write_slice(&[0; 1024], GuestAddress(0x4000))
                        .unwrap();
                    bench
                        .driver
                        .memory
                        .write_slice(&[0; 1024], GuestAddress(0x6000))
                        .unwrap();
                    bench.start(ALL);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
