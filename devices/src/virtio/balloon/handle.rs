//! The owner's end of a balloon: its target, its statistics, and requests for unused pages. Shared between any threads; its
//! lock is held for copies only.
use super::{super::config_space::ConfigSpace, PAGE};
use crate::lock::lock;
use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Instant,
};

/// Offsets in the configuration (§5.5.4).
pub(super) const TARGET: usize = 0;
pub(super) const ACTUAL: usize = 4;
pub(super) const COMMAND: usize = 8;

/// Commands about unused pages: none is wanted, and pages that were hinted may be used again. Others name a request.
pub(super) const STOP: u32 = 0;
pub(super) const DONE: u32 = 1;

/// What a guest says of its memory (§5.5.6.3.1); what it does not say is `None`. Bytes, or counts of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that needed a disk.
    pub major_faults: Option<u64>,
    /// Other page faults.
    pub minor_faults: Option<u64>,
    /// Bytes that nobody uses.
    pub free_memory: Option<u64>,
    /// Bytes in all.
    pub total_memory: Option<u64>,
    /// Bytes that could be had without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of caches for disks.
    pub disk_caches: Option<u64>,
    /// Huge pages that were taken.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that were asked for in vain.
    pub hugetlb_failures: Option<u64>,
}

impl Statistics {
    /// Sets the value of a tag; one that the specification does not name is passed over.
    pub(super) fn set(&mut self, tag: u16, value: u64) {
        let field = match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            _ => return,
        };
        *field = Some(value);
    }
}

/// See the module. It outlives the device, so that a machine that is built anew keeps its target.
#[derive(Debug, Default)]
pub struct Handle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    config: Weak<ConfigSpace>,
    /// Pages that the guest shall give up.
    target: u32,
    statistics: Option<(Statistics, Instant)>,
    can_hint: bool,
    hinting: bool,
    /// The last request for unused pages.
    request: u32,
}

impl Handle {
    /// A handle on a device that shall have `bytes` of the guest's memory.
    pub fn new(bytes: u64) -> Self {
        Self(Mutex::new(State {
            target: pages(bytes),
            ..State::default()
        }))
    }

    /// Asks the guest to give up so many bytes in all, rounded down to pages; it takes its time, and may give less.
    pub fn set_target(&self, bytes: u64) {
        let mut state = self.lock();
        state.target = pages(bytes);
        if let Some(config) = state.config.upgrade() {
            config.set(TARGET, &state.target.to_le_bytes());
        }
    }

    /// Bytes that the guest shall give up.
    pub fn target(&self) -> u64 {
        u64::from(self.lock().target) * PAGE
    }

    /// Bytes that the guest says it has given up. Nobody checks what it says.
    pub fn actual(&self) -> u64 {
        let config = self.lock().config.upgrade();
        config.map_or(0, |config| u64::from(u32::from_le_bytes(config.get(ACTUAL))) * PAGE)
    }

    /// The last statistics and when they came; `None` before the first, or if they are not asked for.
    pub fn statistics(&self) -> Option<(Statistics, Instant)> {
        self.lock().statistics
    }

    /// Asks the guest for its unused pages, which go back to the host; `false` if the device was not made for that. A
    /// request that is under way starts anew.
    pub fn start_hinting(&self) -> bool {
        let mut state = self.lock();
        let Some(config) = state.config.upgrade().filter(|_| state.can_hint) else {
            return false;
        };
        state.request = state.request.wrapping_add(1).max(DONE + 1);
        state.hinting = true;
        config.set(COMMAND, &state.request.to_le_bytes());
        true
    }

    /// Ends a request for unused pages.
    pub fn stop_hinting(&self) {
        let mut state = self.lock();
        if state.hinting
            && let Some(config) = state.config.upgrade()
        {
            state.hinting = false;
            // Also lets the guest use again what it has hinted.
            config.set(COMMAND, &DONE.to_le_bytes());
        }
    }

    /// Whether a request for unused pages is under way.
    pub fn is_hinting(&self) -> bool {
        self.lock().hinting
    }

    /// A new device, whose configuration is `config`.
    pub(super) fn attach(&self, config: &Arc<ConfigSpace>, can_hint: bool) {
        let mut state = self.lock();
        state.config = Arc::downgrade(config);
        state.can_hint = can_hint;
        state.hinting = false;
        state.statistics = None;
        config.set(TARGET, &state.target.to_le_bytes());
        config.set(COMMAND, &STOP.to_le_bytes());
    }

    /// Statistics have come.
    pub(super) fn update(&self, statistics: Statistics) {
        self.lock().statistics = Some((statistics, Instant::now()));
    }

    /// Whether the request with this number is under way.
    pub(super) fn is_asking(&self, number: u32) -> bool {
        let state = self.lock();
        state.hinting && state.request == number
    }

    /// The guest has sent all the pages that a request asked for. From now on it may use them again.
    pub(super) fn finish(&self, number: u32) {
        let mut state = self.lock();
        if state.hinting && state.request == number {
            state.hinting = false;
            if let Some(config) = state.config.upgrade() {
                config.set(COMMAND, &DONE.to_le_bytes());
            }
        }
    }

    /// The driver has gone.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        (state.statistics, state.hinting) = (None, false);
        if let Some(config) = state.config.upgrade() {
            config.set(COMMAND, &STOP.to_le_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}
