#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
use super::{
    super::testing::{Driver, HIGH, INDIRECT, MEMORY, NEXT, WRITE},
    *,
};

/// A request of two buffers goes out and comes back with what the device wrote.
#[test]
fn a_chain_makes_its_way_there_and_back() {
    let mut driver = Driver::new(8);
    let mut ring = driver.ring(0);
    assert!(ring.pop().unwrap().is_none());
    for round in 0..20_u32 {
        let at = driver.add(&[b"he", b"llo"], &[3, 4]);
        let mut chain = ring.pop().unwrap().unwrap();
        let mut said = [0; 5];
        assert!(chain.readable.read(&mut said));
        assert_eq!(&said, b"hello");
        assert!(chain.writable.write(b"worlds!"));
        assert!(!chain.writable.write(b"!"));
        let head = u32::from(chain.head());
        ring.push(chain, 7).unwrap();
        assert_eq!(driver.used(), [(head, 7)]);
        assert_eq!(driver.bytes(at[2], 3), b"wor");
        assert_eq!(driver.bytes(at[3], 4), b"lds!");
        ring.signal().unwrap();
        assert_eq!(driver.count.used.load(Ordering::Relaxed), round + 1);
    }
}

#[test]
fn an_interrupt_comes_only_when_the_driver_wants_it() {
    let mut driver = Driver::new(8);
    let mut ring = driver.ring(0);
    let interrupts = |driver: &Driver| driver.count.used.load(Ordering::Relaxed);
    let serve = |driver: &mut Driver, ring: &mut Ring| {
        driver.add(&[b"x"], &[]);
        let chain = ring.pop().unwrap().unwrap();
        ring.push(chain, 0).unwrap();
        ring.signal().unwrap();
    };
    ring.signal().unwrap();
    assert_eq!(interrupts(&driver), 0, "nothing was used");
    let flags = vm_memory::GuestAddress(driver.queue.available);
    driver.memory.write_obj(NO_INTERRUPT, flags).unwrap();
    serve(&mut driver, &mut ring);
    assert_eq!(interrupts(&driver), 0);
    driver.memory.write_obj(0_u16, flags).unwrap();
    serve(&mut driver, &mut ring);
    assert_eq!(interrupts(&driver), 1);

    // With EVENT_IDX: the event after which to interrupt stands behind the ring.
    let link = (driver.kick.clone(), driver.signals.clone());
    let mut ring = Ring::start(ring.stop().1, 0, &driver.memory, true, link).unwrap();
    let event = vm_memory::GuestAddress(driver.queue.available + 4 + 16);
    driver.memory.write_obj(3_u16, event).unwrap();
    serve(&mut driver, &mut ring);
    assert_eq!(interrupts(&driver), 1, "the third was used, the fourth is wanted");
    serve(&mut driver, &mut ring);
    assert_eq!(interrupts(&driver), 2);
    serve(&mut driver, &mut ring);
    assert_eq!(interrupts(&driver), 2, "not asked for again");
}

/// What it is called, how it is done, and the error.
type Breakage = (&'static str, Box<dyn Fn(&mut Driver)>, RingError);

/// Every way in which a driver can break its ring is told by name.
#[test]
fn a_broken_ring_is_an_error() {
    let broken = |breakage: &dyn Fn(&mut Driver)| {
        let mut driver = Driver::new(4);
        let mut ring = driver.ring(0);
        breakage(&mut driver);
        loop {
            match ring.pop() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    };
    let one = |at: u64, len: u32, flags: u16, next: u16| {
        Box::new(move |driver: &mut Driver| {
            driver.descriptor(0, at, len, (flags, next));
            driver.publish(0);
        })
    };
    let cases: Vec<Breakage> = vec![
        (
            "index",
            Box::new(|driver| driver.set_available(5)),
            RingError::Available(5, 4),
        ),
        ("head", Box::new(|driver| driver.publish(4)), RingError::Descriptor(4)),
        ("next", one(0x1000, 4, NEXT, 9), RingError::Descriptor(9)),
        ("loop", one(0x1000, 4, NEXT, 0), RingError::Loop(0)),
        ("gap", one(MEMORY, 1, 0, 0), RingError::Buffer { at: MEMORY, len: 1 }),
        (
            "end",
            one(MEMORY - 1, 2, 0, 0),
            RingError::Buffer { at: MEMORY - 1, len: 2 },
        ),
        (
            "wrap",
            one(u64::MAX - 1, 4, WRITE, 0),
            RingError::Buffer {
                at: u64::MAX - 1,
                len: 4,
            },
        ),
        (
            "huge",
            one(HIGH, u32::MAX, 0, 0),
            RingError::Buffer {
                at: HIGH,
                len: u32::MAX,
            },
        ),
        (
            "order",
            Box::new(|driver| {
                driver.descriptor(0, 0x1000, 4, (NEXT | WRITE, 1));
                driver.descriptor(1, 0x1000, 4, (0, 0));
                driver.publish(0);
            }),
            RingError::Order,
        ),
        (
            "4 GiB",
            Box::new(|driver| {
                for i in 0..4 {
                    driver.descriptor(
                        i,
                        0,
                        if i == 3 { u32::MAX } else { 1 << 19 },
                        (NEXT * u16::from(i < 3), i + 1),
                    );
                }
                driver.publish(0);
            }),
            RingError::Length,
        ),
        (
            "indirect and next",
            one(0x9000, 16, INDIRECT | NEXT, 1),
            RingError::Indirect,
        ),
        ("odd table", one(0x9000, 17, INDIRECT, 0), RingError::Indirect),
        ("empty table", one(0x9000, 0, INDIRECT, 0), RingError::Indirect),
        ("huge table", one(0x9000, 16 << 16, INDIRECT, 0), RingError::Indirect),
        (
            "nested table",
            Box::new(|driver| {
                driver.descriptor(1, 0x9000, 16, (INDIRECT, 0));
                let table = driver.queue.descriptors + 16;
                driver.descriptor(0, table, 16, (INDIRECT, 0));
                driver.publish(0);
            }),
            RingError::Indirect,
        ),
    ];
    for (name, breakage, error) in cases {
        assert_eq!(broken(&*breakage), Some(error), "{name}");
    }
}

#[test]
fn an_indirect_table_is_followed() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    // Descriptors 1 and 2 of the queue are the table.
    driver.descriptor(1, 0x9000, 4, (NEXT, 1));
    driver.descriptor(2, HIGH, 8, (WRITE, 0));
    driver.descriptor(0, driver.queue.descriptors + 16, 32, (INDIRECT, 0));
    driver.publish(0);
    let chain = ring.pop().unwrap().unwrap();
    assert_eq!((chain.head(), chain.readable.len(), chain.writable.len()), (0, 4, 8));
}

#[test]
fn tables_outside_memory_or_misaligned_start_no_ring() {
    let driver = Driver::new(8);
    let start = |change: &dyn Fn(&mut Queue)| {
        let mut queue = driver.queue.clone();
        change(&mut queue);
        let link = (driver.kick.clone(), driver.signals.clone());
        Ring::start(queue, 0, &driver.memory, true, link)
            .map_err(|(_, error)| error)
            .err()
    };
    assert_eq!(start(&|_| {}), None);
    for (change, table) in [
        (
            &(|q: &mut Queue| q.descriptors += 8) as &dyn Fn(&mut Queue),
            "descriptor table",
        ),
        (&|q| q.descriptors = MEMORY - 16, "descriptor table"),
        (&|q| q.available += 1, "available ring"),
        (&|q| q.available = u64::MAX - 1, "available ring"),
        (&|q| q.used += 2, "used ring"),
        (&|q| q.used = MEMORY - 64, "used ring"),
    ] {
        assert_eq!(start(change), Some(RingError::Table(table)));
    }
}

/// A driver that never stops is not served for ever: the ring kicks itself and comes back.
#[test]
fn a_busy_driver_leaves_time_for_others() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.add(&[b"x"], &[]);
    let mut served = 0;
    ring.drain(|_| {
        served += 1;
        driver.add(&[b"x"], &[]);
        Ok(0)
    })
    .unwrap();
    assert_eq!(served, 8);
    assert_eq!(driver.kick.read().unwrap(), 1);
}
