#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::{super::testing::Driver, *};

#[allow(clippy::unnecessary_wraps, reason = "a source may fail")]
fn sevens(to: &mut [u8]) -> io::Result<()> {
    to.fill(7);
    Ok(())
}

#[test]
fn a_request_is_filled_up_to_the_limit() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    let small = driver.add(&[], &[3, 5]);
    driver.add(&[], &[MAX_REQUEST + 10]);
    ring.drain(|chain| serve(chain, sevens)).unwrap();
    assert_eq!(driver.used(), [(0, 8), (2, MAX_REQUEST as u32)]);
    assert_eq!(driver.bytes(small[1], 5), [7; 5]);
}

#[test]
fn a_request_without_room_breaks_the_ring() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.add(&[b"give"], &[]);
    assert!(ring.drain(|chain| serve(chain, sevens)).is_err());
}

#[test]
fn a_limit_holds_requests_back_in_the_ring() {
    use super::super::testing::HIGH;
    use crate::rate_limiter::BucketSpec;
    use std::{cell::Cell, time::Duration};
    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let clock: Clock = || NOW.get().unwrap();
    let start = Instant::now();
    NOW.set(Some(start));
    let bucket = BucketSpec {
        size: 100,
        one_time_burst: 0,
        refill_time: Duration::from_secs(1),
    };
    let limiter = Arc::new(Mutex::new(RateLimiter::new(Some(bucket), None, start)));
    let mut driver = Driver::new(8);
    let mut rng = Rng::limited(sevens, limiter);
    rng.clock = clock;
    let setup = Setup {
        memory: driver.memory.clone(),
        features: 0,
        signals: driver.signals.clone(),
        rings: vec![driver.ring(0)],
    };
    let mut worker = rng.start(setup).unwrap().pop().unwrap();
    for _ in 0..3 {
        driver.add(&[], &[60]);
    }
    worker.serve().unwrap();
    assert_eq!(driver.used(), [(0, 60)]);
    NOW.set(Some(start + Duration::from_millis(199)));
    worker.serve().unwrap();
    assert_eq!(driver.used(), []);
    NOW.set(Some(start + Duration::from_millis(200)));
    worker.serve().unwrap();
    assert_eq!(driver.used(), [(1, 60)]);
    // What waits is the driver's again after a pause, and a broken request breaks the ring all the same.
    let mut ring = rng.stop(vec![worker]).pop().unwrap();
    assert!(ring.pop().unwrap().is_some());
    let mut driver = Driver::new(8);
    let setup = Setup {
        memory: driver.memory.clone(),
        features: 0,
        signals: driver.signals.clone(),
        rings: vec![driver.ring(0)],
    };
    NOW.set(Some(start + Duration::from_secs(9)));
    let mut worker = rng.start(setup).unwrap().pop().unwrap();
    driver.descriptor(0, HIGH, 8, (0, 0));
    driver.publish(0);
    assert!(worker.serve().is_err());
}
