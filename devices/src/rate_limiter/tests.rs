use super::*;
use std::thread;

const SECOND: Duration = Duration::from_secs(1);

fn bucket(size: u64, one_time_burst: u64, refill_time: Duration) -> BucketSpec {
    BucketSpec {
        size,
        one_time_burst,
        refill_time,
    }
}

fn bandwidth(size: u64, burst: u64, now: Instant) -> RateLimiter {
    RateLimiter::new(Some(bucket(size, burst, SECOND)), None, now)
}

#[test]
fn a_size_or_time_of_zero_means_no_limit() {
    let now = Instant::now();
    let mut limiter = RateLimiter::new(Some(bucket(0, 5, SECOND)), Some(bucket(5, 5, Duration::ZERO)), now);
    assert!(!limiter.is_limiting());
    assert_eq!(limiter.take(u64::MAX, u64::MAX, now), Ok(()));
}

#[test]
fn tokens_come_back_steadily_and_the_wait_is_exact() {
    let start = Instant::now();
    let mut limiter = bandwidth(1000, 0, start);
    assert_eq!(limiter.take(1, 1000, start), Ok(()));
    assert_eq!(limiter.take(1, 1, start), Err(Duration::from_millis(1)));
    assert_eq!(limiter.take(1, 300, start), Err(Duration::from_millis(300)));
    let almost = start + Duration::from_nanos(299_999_999);
    assert_eq!(limiter.take(1, 300, almost), Err(Duration::from_nanos(1)));
    assert_eq!(limiter.take(1, 300, start + Duration::from_millis(300)), Ok(()));
    assert!(limiter.take(1, 1, start + Duration::from_millis(300)).is_err());
}

#[test]
fn a_bucket_never_holds_more_than_its_size() {
    let start = Instant::now();
    let mut limiter = bandwidth(10, 0, start);
    let later = start + 100 * SECOND;
    assert_eq!(limiter.take(0, 10, later), Ok(()));
    assert_eq!(limiter.take(0, 10, later), Err(SECOND));
}

#[test]
fn the_burst_is_spent_first_and_never_comes_back() {
    let start = Instant::now();
    let mut limiter = bandwidth(10, 100, start);
    assert_eq!(limiter.take(0, 60, start), Ok(()));
    assert_eq!(limiter.take(0, 45, start), Ok(()));
    assert_eq!(limiter.take(0, 5, start), Ok(()));
    assert_eq!(limiter.take(0, 10, start), Err(SECOND));
    assert_eq!(limiter.take(0, 10, start + SECOND), Ok(()));
    assert_eq!(limiter.take(0, 1, start + SECOND), Err(SECOND / 10));
}

#[test]
fn a_request_larger_than_the_bucket_passes_once_and_pays_later() {
    let start = Instant::now();
    let mut limiter = bandwidth(10, 0, start);
    assert_eq!(limiter.take(0, 1, start), Ok(()));
    assert_eq!(limiter.take(0, 35, start), Err(SECOND / 10));
    let full = start + SECOND / 10;
    assert_eq!(limiter.take(0, 35, full), Ok(()));
    assert_eq!(limiter.take(0, 1, full), Err(SECOND / 10 * 26));
    assert_eq!(limiter.take(0, 1, full + SECOND / 10 * 26), Ok(()));
}

#[test]
fn a_bucket_throttles_only_itself() {
    let start = Instant::now();
    let mut limiter = RateLimiter::new(Some(bucket(10, 0, SECOND)), Some(bucket(3, 0, SECOND)), start);
    assert_eq!(limiter.take(1, 10, start), Ok(()));
    assert!(limiter.take(1, 10, start).is_err());
    // The refusal took no operation, and what needs no bytes goes on.
    assert_eq!(limiter.take(1, 0, start), Ok(()));
    assert_eq!(limiter.take(1, 0, start), Ok(()));
    assert!(limiter.take(1, 0, start).is_err());
    assert_eq!(limiter.take(0, 10, start + SECOND), Ok(()));
}

#[test]
fn odd_rates_do_not_drift() {
    let start = Instant::now();
    let mut limiter = RateLimiter::new(Some(bucket(7, 0, Duration::from_nanos(1_000_003))), None, start);
    let (mut now, mut taken) = (start, 0_u64);
    let end = start + 10 * SECOND;
    while now < end {
        match limiter.take(0, 1, now) {
            Ok(()) => taken += 1,
            Err(wait) => now += wait,
        }
    }
    let exact = 7 + 10_u64 * 1_000_000_000 * 7 / 1_000_003;
    assert!(taken.abs_diff(exact) <= 1, "{taken} instead of {exact}");
}

#[test]
fn extreme_numbers_neither_overflow_nor_panic() {
    let start = Instant::now();
    let longest = Duration::from_millis(u64::MAX / 1_000_000);
    let mut limiter = RateLimiter::new(Some(bucket(u64::MAX, u64::MAX, longest)), None, start);
    for _ in 0..4 {
        let _ = limiter.take(1, u64::MAX, start);
        limiter.spend(u64::MAX, u64::MAX);
    }
    assert!(limiter.take(1, u64::MAX, start + SECOND).is_err());
    // A clock that goes back does no harm.
    assert!(limiter.take(1, 1, start).is_err());
}

#[test]
fn the_timer_wakes_when_tokens_suffice_and_not_before() {
    let limiter = Arc::new(Mutex::new(RateLimiter::new(
        Some(bucket(1000, 0, SECOND)),
        None,
        Instant::now(),
    )));
    let mut throttle = Throttle::new(&limiter, Instant::now).unwrap().unwrap();
    assert!(throttle.admit(1, 1000));
    let start = Instant::now();
    assert!(!throttle.admit(1, 30));
    assert!(throttle.timer.is_armed().unwrap());
    throttle.timer.wait().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    assert!(throttle.admit(1, 30));
}

#[test]
fn workers_share_one_limit() {
    let limiter = Arc::new(Mutex::new(RateLimiter::new(
        None,
        Some(bucket(2, 0, 1000 * SECOND)),
        Instant::now(),
    )));
    let passed: usize = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let mut throttle = Throttle::new(&limiter, Instant::now).unwrap().unwrap();
                scope.spawn(move || usize::from(throttle.admit(1, 0)))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(passed, 2);
}

#[test]
fn no_limit_needs_no_timer() {
    let limiter = Arc::new(Mutex::new(RateLimiter::default()));
    assert!(Throttle::new(&limiter, Instant::now).unwrap().is_none());
}
