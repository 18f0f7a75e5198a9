//! Limits hold packets up and lose none.
use super::*;
use crate::rate_limiter::BucketSpec;

/// A limit of `size` tokens in 100 ms.
fn bucket(size: u64) -> BucketSpec {
    BucketSpec {
        size,
        one_time_burst: 0,
        refill_time: Duration::from_millis(100),
    }
}

fn bench(receive: RateLimiter, transmit: RateLimiter) -> (Bench, UnixDatagram) {
    let (ours, theirs) = socket_pair();
    let port = Port::Tap(Arc::new(Tap::from(File::from(OwnedFd::from(ours)))));
    let limits = NetLimits {
        receive: Arc::new(Mutex::new(receive)),
        transmit: Arc::new(Mutex::new(transmit)),
    };
    (Bench::limited(port, ALL, limits), theirs)
}

#[test]
fn sending_keeps_to_its_limits() {
    for (bandwidth, ops) in [(None, Some(bucket(4))), (Some(bucket(4000)), None)] {
        let (mut bench, far) = bench(RateLimiter::default(), RateLimiter::new(bandwidth, ops, Instant::now()));
        let start = Instant::now();
        for seed in 0..20 {
            bench.send(&[&packet(&frame(1000, seed))]);
        }
        for seed in 0..20 {
            assert_eq!(arrival(&far), packet(&frame(1000, seed)));
        }
        // 4 at once, and 16 more at 40 in a second.
        assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
    }
}

#[test]
fn receiving_keeps_to_its_limits() {
    for (bandwidth, ops) in [(None, Some(bucket(4))), (Some(bucket(4000)), None)] {
        let (mut bench, far) = bench(RateLimiter::new(bandwidth, ops, Instant::now()), RateLimiter::default());
        let start = Instant::now();
        for seed in 0..20 {
            far.send(&packet(&frame(1000, seed))).unwrap();
        }
        bench.give(60);
        assert_eq!(bench.received(20), [1012; 20]);
        // The last one is paid for by those after it.
        assert!(start.elapsed() >= Duration::from_millis(360), "{:?}", start.elapsed());
    }
}
