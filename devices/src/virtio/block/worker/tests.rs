use super::{
    super::{
        Engine, Options,
        testing::{Bench, header, options},
    },
    *,
};
use crate::{
    rate_limiter::{BucketSpec, RateLimiter},
    virtio::{VirtioDevice, disk::testing::pattern, io_thread::IoThread},
};
use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::Async];

fn limited(engine: Engine, size: u64, refill_time: Duration) -> Options {
    let bucket = BucketSpec {
        size,
        one_time_burst: 0,
        refill_time,
    };
    let limiter = RateLimiter::new(Some(bucket), None, Instant::now());
    Options {
        limiter: Arc::new(Mutex::new(limiter)),
        ..options(engine)
    }
}

/// Waits for `count` used chains.
fn wait(bench: &mut Bench, count: usize) {
    let mut seen = 0;
    let start = Instant::now();
    while seen < count {
        seen += bench.driver.used().len();
        assert!(start.elapsed() < Duration::from_secs(20), "{seen} of {count}");
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(seen, count);
}

#[test]
fn kicks_wake_the_worker_without_its_counter_being_read() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        let thread = IoThread::spawn("test").unwrap();
        for round in 0..3 {
            let running = thread.run(bench.worker.take().unwrap()).unwrap();
            for i in 0..50 {
                let at = bench.driver.add(&[&header(0, i)], &[512, 1]);
                bench.driver.kick.write(1).unwrap();
                wait(&mut bench, 1);
                assert_eq!(
                    bench.driver.bytes(at[1], 512),
                    pattern(1 << 20, 0)[i as usize * 512..][..512]
                );
            }
            bench.worker = Some(running.recall().unwrap());
            bench.stop();
            assert_eq!(bench.driver.queue.next_used, 50 * (round + 1));
            bench.start(u64::MAX);
        }
    }
}

#[test]
fn a_throttled_worker_wakes_when_its_tokens_are_there() {
    for engine in ENGINES {
        // 8 requests of 64 KiB at 1 MiB per 200 ms: the bucket has 4 of them, the others take 4 × 12.5 ms.
        let mut bench = Bench::with(limited(engine, 256 << 10, Duration::from_millis(50)), false);
        let thread = IoThread::spawn("test").unwrap();
        let running = thread.run(bench.worker.take().unwrap()).unwrap();
        let start = Instant::now();
        for _ in 0..8 {
            bench.driver.add(&[&header(0, 0)], &[64 << 10, 1]);
        }
        bench.driver.kick.write(1).unwrap();
        wait(&mut bench, 8);
        assert!(start.elapsed() >= Duration::from_millis(49), "{:?}", start.elapsed());
        bench.worker = Some(running.recall().unwrap());
        bench.stop();
    }
}

#[test]
fn what_is_throttled_waits_in_the_ring_over_a_pause() {
    for engine in ENGINES {
        let mut bench = Bench::with(limited(engine, 512, Duration::from_secs(3600)), false);
        for _ in 0..3 {
            bench.driver.add(&[&header(0, 0)], &[512, 1]);
        }
        bench.serve();
        assert_eq!(bench.driver.used().len(), 1);
        bench.stop();
        assert_eq!(
            (bench.driver.queue.next_available, bench.driver.queue.next_used),
            (1, 1)
        );
        *bench.device.options.limiter.lock().unwrap() = RateLimiter::default();
        bench.start(u64::MAX);
        bench.serve();
        assert_eq!(bench.driver.used().len(), 2);
    }
}

#[test]
fn a_stop_finishes_what_is_in_flight() {
    let mut bench = Bench::new(Engine::Async);
    for i in 0..20 {
        bench.driver.add(&[&header(1, i * 8), &[i as u8; 4096]], &[1]);
    }
    // One turn: everything is handed to the kernel, nothing is waited for.
    bench.worker.as_mut().unwrap().answer();
    bench.stop();
    assert_eq!(bench.driver.queue.next_used, 20);
    let bytes = bench.file.bytes();
    assert!((0..20).all(|i| bytes[i * 4096..][..4096] == [i as u8; 4096]));
}

#[test]
fn a_broken_ring_loses_nothing_of_the_kernels() {
    let mut bench = Bench::new(Engine::Async);
    for i in 0..10 {
        bench.driver.add(&[&header(0, i)], &[512, 1]);
    }
    bench.driver.add(&[&header(0, 0)], &[]);
    bench.worker.as_mut().unwrap().answer();
    assert!(bench.driver.signals.needs_reset());
    bench.stop();
    // The device is usable after a reset by the driver.
    bench.driver = crate::virtio::testing::Driver::new(64);
    bench.start(u64::MAX);
    assert_eq!(bench.request(0, 0, &[], 512), (0, pattern(512, 0)));
}

#[test]
fn more_requests_than_the_kernel_takes_at_once_all_come_back() {
    let mut bench = Bench::new(Engine::Async);
    bench.stop();
    bench.driver = crate::virtio::testing::Driver::new(512);
    bench.start(u64::MAX);
    bench.driver.add(&[&header(0, 0)], &[512, 1]);
    for _ in 1..300 {
        bench.driver.publish(0);
    }
    bench.serve();
    assert_eq!(bench.driver.used().len(), 300);
}

#[test]
fn each_queue_has_a_worker_and_all_share_one_limit() {
    let options = Options {
        queues: 2,
        ..limited(Engine::Sync, 512, Duration::from_secs(3600))
    };
    let mut bench = Bench::with(options, false);
    bench.stop();
    let memory = bench.driver.memory.clone();
    let mut drivers = [0, 0x20_000].map(|shift| crate::virtio::testing::Driver::at(memory.clone(), 16, shift));
    let setup = crate::virtio::Setup {
        memory,
        features: bench.device.features(),
        signals: bench.driver.signals.clone(),
        rings: drivers
            .iter()
            .zip(0..)
            .map(|(driver, index)| driver.ring(index))
            .collect(),
    };
    let mut workers = bench.device.start(setup).unwrap();
    assert_eq!(workers.len(), 2);
    for driver in &mut drivers {
        driver.add(&[&header(0, 0)], &[512, 1]);
    }
    workers.iter_mut().for_each(BlockWorker::serve_all);
    let served: usize = drivers.iter_mut().map(|driver| driver.used().len()).sum();
    assert_eq!(served, 1);
    assert_eq!(bench.device.stop(workers).len(), 2);
}
