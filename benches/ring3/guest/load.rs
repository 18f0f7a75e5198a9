//! What is asked of a device: so many requests, of which so many are always under way.
mod block;
mod net;
mod rng;

use crate::{
    Failure,
    device::{self, Device},
    order::{MOST_BYTES, Order, Report},
    queue::{Queue, Rings, SIZE},
};
use core::{
    arch::x86_64::{_mm_lfence, _rdtsc},
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
};

/// Looks at a ring without news before the device is given up: some seconds.
const PATIENCE: u64 = 1 << 28;

const WORDS: usize = MOST_BYTES as usize / 8;

static RINGS: [Rings; 2] = [const { Rings::new() }; 2];
/// One for each request that may be under way.
static BUFFERS: [Buffer; SIZE] = [const { Buffer([const { AtomicU64::new(0) }; WORDS]) }; SIZE];

#[repr(C, align(4096))]
struct Buffer([AtomicU64; WORDS]);

impl Buffer {
    fn at(&self) -> u64 {
        self.0.as_ptr().addr() as u64
    }

    /// Puts memory behind the first `bytes`, so that no page is missing while the clock runs.
    fn touch(&self, bytes: u64) {
        let words = (bytes as usize).div_ceil(8);
        for word in self.0[..words.min(WORDS)].iter().step_by(512) {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0[index % WORDS]
    }
}

/// A kind of request that one queue answers.
trait Load {
    /// Writes request `number` into the chain at `slot`.
    fn ask(&mut self, slot: usize, number: u64);
    /// Looks at the answer to the last request at `slot`.
    fn check(&self, slot: usize, written: u32) -> Result<(), Failure>;
}

/// Carries the order out with the device that it names.
pub fn run(order: &Order) -> Result<Report, Failure> {
    let mut device = Device::find(order.window)?;
    let event_idx = if order.event_idx { device::EVENT_IDX } else { 0 };
    match device.kind() {
        1 => net::run(&mut device, order, event_idx),
        2 => block::run(&mut device, order, event_idx),
        4 => rng::run(&mut device, order, event_idx),
        _ => Err("there is no load for a device of this type"),
    }
}

/// Keeps `order.depth` requests under way until `order.requests` are answered.
fn drive(device: &Device, queue: &mut Queue, load: &mut impl Load, order: &Order) -> Result<Report, Failure> {
    let start = clock();
    let (mut asked, mut answered) = (0, 0);
    while asked < order.depth.min(order.requests) {
        load.ask(asked as usize, asked);
        queue.add(asked as usize);
        asked += 1;
    }
    queue.publish();
    let mut idle = 0;
    while answered < order.requests {
        // All that is there is taken before more is asked for: one look of the device then finds the whole batch.
        while let Some((slot, written)) = queue.take() {
            idle = 0;
            load.check(slot, written)?;
            answered += 1;
            if asked < order.requests {
                load.ask(slot, asked);
                queue.add(slot);
                asked += 1;
            }
        }
        queue.publish();
        wait(device, &mut idle)?;
    }
    Ok(Report {
        requests: answered,
        ticks: clock() - start,
        kicks: queue.kicks(),
    })
}

/// A short rest between two looks at a ring, `idle` of which found nothing.
fn wait(device: &Device, idle: &mut u64) -> Result<(), Failure> {
    *idle += 1;
    if *idle < PATIENCE {
        spin_loop();
        return Ok(());
    }
    Err(if device.is_broken() {
        "the device says that it needs a reset"
    } else {
        "the device does not answer"
    })
}

/// The time-stamp counter once all that stands before is done.
fn clock() -> u64 {
    // SAFETY: every x86_64 has this instruction.
    unsafe { _mm_lfence() };
    // SAFETY: as above; ring 3 may read the counter, as the VMM sets the CPU up.
    unsafe { _rdtsc() }
}
