//! Limits on bytes and operations: token buckets, and a timer that wakes a worker when there are enough tokens.
//!
//! A [`RateLimiter`] belongs to one device and may be shared by its workers; each worker has a [`Throttle`] of its own,
//! whose timer it watches on its I/O thread. Nothing here blocks or sleeps, and its lock is held for arithmetic only.
use crate::lock::lock;
use std::{
    fmt, io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use vmm_sys_util::timerfd::TimerFd;

/// What time it is; tests have clocks of their own.
pub type Clock = fn() -> Instant;

/// What an operator says of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSpec {
    /// Tokens that the bucket holds, and has at the start.
    pub size: u64,
    /// Extra tokens at the start, spent first and never refilled.
    pub one_time_burst: u64,
    /// The time in which an empty bucket becomes full.
    pub refill_time: Duration,
}

/// Tokens that come back steadily. They are counted when somebody asks, in integers, and what remains of a division is
/// carried over, so that no rate drifts.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    size: u64,
    burst: u64,
    /// Nanoseconds in which `size` tokens come back.
    refill: u128,
    /// Tokens that are there; below 0 after a request that was larger than the bucket.
    budget: i128,
    /// What is left of the last division by `refill`: that many parts of a token.
    remainder: u128,
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket; `None` if its size or refill time is 0, which means no limit.
    pub fn new(spec: BucketSpec, now: Instant) -> Option<Self> {
        let refill = spec.refill_time.as_nanos();
        (spec.size > 0 && refill > 0).then_some(Self {
            size: spec.size,
            burst: spec.one_time_burst,
            refill,
            budget: spec.size.into(),
            remainder: 0,
            updated: now,
        })
    }

    /// How long it takes until `tokens` can be spent; zero means now. A request that is larger than the bucket waits for a
    /// full one.
    fn wait(&mut self, tokens: u64, now: Instant) -> Duration {
        // Also when there are enough: what a full bucket would have gained must not come back later.
        self.refill(now);
        let wanted = i128::from(tokens.saturating_sub(self.burst).min(self.size));
        let Ok(missing @ 1..) = u128::try_from(wanted - self.budget) else {
            return Duration::ZERO;
        };
        let parts = missing.saturating_mul(self.refill).saturating_sub(self.remainder);
        let nanos = parts.div_ceil(self.size.into());
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }

    /// Takes tokens, if need be on credit that later requests wait for.
    fn spend(&mut self, tokens: u64) {
        let burst = self.burst.min(tokens);
        self.burst -= burst;
        self.budget -= i128::from(tokens - burst);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated).as_nanos();
        self.updated = self.updated.max(now);
        let parts = elapsed.saturating_mul(self.size.into()).saturating_add(self.remainder);
        self.remainder = parts % self.refill;
        let gained = i128::try_from(parts / self.refill).unwrap_or(i128::MAX);
        self.budget = self.budget.saturating_add(gained);
        if self.budget >= self.size.into() {
            self.budget = self.size.into();
            self.remainder = 0;
        }
    }
}

/// The limits of one device.
#[derive(Debug, Clone, Default)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// Limits on bytes and on operations; a bucket that is absent or of size 0 limits nothing.
    pub fn new(bandwidth: Option<BucketSpec>, ops: Option<BucketSpec>, now: Instant) -> Self {
        let bucket = |spec: Option<BucketSpec>| spec.and_then(|spec| TokenBucket::new(spec, now));
        Self {
            bandwidth: bucket(bandwidth),
            ops: bucket(ops),
        }
    }

    /// Whether it limits anything.
    pub fn is_limiting(&self) -> bool {
        self.bandwidth.is_some() || self.ops.is_some()
    }

    /// Spends tokens from both buckets, or from neither.
    ///
    /// # Errors
    /// How long it takes until they suffice. A bucket of which nothing is asked refuses nothing.
    pub fn take(&mut self, ops: u64, bytes: u64, now: Instant) -> Result<(), Duration> {
        let both = [(&mut self.ops, ops), (&mut self.bandwidth, bytes)];
        let wait = both
            .into_iter()
            .filter(|(_, tokens)| *tokens > 0)
            .map(|(bucket, tokens)| {
                bucket
                    .as_mut()
                    .map_or(Duration::ZERO, |bucket| bucket.wait(tokens, now))
            });
        match wait.max() {
            None | Some(Duration::ZERO) => {
                self.spend(ops, bytes);
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Spends tokens whether they are there or not: for what is known only after the work. Later requests pay.
    pub fn spend(&mut self, ops: u64, bytes: u64) {
        for (bucket, tokens) in [(&mut self.ops, ops), (&mut self.bandwidth, bytes)] {
            if let Some(bucket) = bucket {
                bucket.spend(tokens);
            }
        }
    }
}

/// A worker's way through a limiter. Its descriptor becomes readable when a refused request may try again; watch it
/// edge-triggered, then nobody has to read it.
pub struct Throttle {
    limiter: Arc<Mutex<RateLimiter>>,
    timer: TimerFd,
    clock: Clock,
}

impl Throttle {
    /// A way through `limiter`; `None` if that limits nothing.
    ///
    /// # Errors
    /// No timer can be created: too many open files.
    pub fn new(limiter: &Arc<Mutex<RateLimiter>>, clock: Clock) -> io::Result<Option<Self>> {
        if !lock(limiter).is_limiting() {
            return Ok(None);
        }
        Ok(Some(Self {
            limiter: limiter.clone(),
            timer: TimerFd::new()?,
            clock,
        }))
    }

    /// Whether a request may go on now, which then has paid. If not, the timer is set to the moment at which it may.
    pub fn admit(&mut self, ops: u64, bytes: u64) -> bool {
        let Err(wait) = lock(&self.limiter).take(ops, bytes, (self.clock)()) else {
            return true;
        };
        if let Err(error) = self.timer.reset(wait, None) {
            // Going on is better than never going on.
            log::error!("a rate limit is not kept, for its timer cannot be set: {error}");
            return true;
        }
        false
    }

    /// Spends tokens whether they are there or not, see [`RateLimiter::spend`].
    pub fn spend(&self, ops: u64, bytes: u64) {
        lock(&self.limiter).spend(ops, bytes);
    }
}

impl AsRawFd for Throttle {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("limiter", &self.limiter)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
