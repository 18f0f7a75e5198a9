//! Random numbers by any ring, with a limit and without.
#![no_main]
mod support {
    pub mod rings;
}
use coracle_devices::{
    rate_limiter::{BucketSpec, RateLimiter},
    virtio::rng::Rng,
};
use libfuzzer_sys::fuzz_target;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

fuzz_target!(|input: &[u8]| {
    let Some((limit, input)) = input.split_first() else {
        return;
    };
    let bucket = (limit % 2 == 0).then_some(BucketSpec {
        size: u64::from(*limit) * 64,
        one_time_burst: 0,
        refill_time: Duration::from_micros(100),
    });
    let limiter = RateLimiter::new(bucket, None, Instant::now());
    let source = |to: &mut [u8]| {
        to.fill(7);
        Ok(())
    };
    support::rings::drive(
        Rng::limited(source, Arc::new(Mutex::new(limiter))),
        u64::MAX,
        input,
        |_| {},
    );
});
