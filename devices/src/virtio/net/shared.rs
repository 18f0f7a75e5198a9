//! What the workers of one card and its cable have in common. Locks are held for copies only.
use super::{filter::Filter, link::Link};
use crate::lock::lock;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU16, AtomicU32, Ordering},
};
use vmm_sys_util::eventfd::EventFd;

/// State that commands of the driver and the host change while packets pass.
#[derive(Debug)]
pub(super) struct Shared {
    link: Link,
    /// Pairs of queues that the driver wants used.
    active: AtomicU16,
    /// `TUN_F_*` bits of what the driver takes unfinished.
    offloads: AtomicU32,
    filter: Mutex<Filter>,
    /// Changes with the filter, so that workers copy it only then.
    version: AtomicU32,
    /// Wakes each pair of a running driver.
    wakes: Mutex<Vec<Arc<EventFd>>>,
}

impl Shared {
    pub(super) fn new(mac: Option<[u8; 6]>, link: Link) -> Self {
        Self {
            link,
            active: AtomicU16::new(1),
            offloads: AtomicU32::new(0),
            filter: Mutex::new(Filter::new(mac)),
            version: AtomicU32::new(0),
            wakes: Mutex::new(Vec::new()),
        }
    }

    /// As at power-on, but the cable stays as it is.
    pub(super) fn reset(&self, mac: Option<[u8; 6]>, offloads: u32) {
        self.set_active(1);
        self.set_offloads(offloads);
        self.change_filter(|filter| *filter = Filter::new(mac));
    }

    /// Whether packets pass.
    pub(super) fn link(&self) -> bool {
        self.link.is_up()
    }

    pub(super) fn active(&self) -> u16 {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn set_active(&self, pairs: u16) {
        self.active.store(pairs, Ordering::Relaxed);
    }

    pub(super) fn offloads(&self) -> u32 {
        self.offloads.load(Ordering::Relaxed)
    }

    pub(super) fn set_offloads(&self, bits: u32) {
        self.offloads.store(bits, Ordering::Relaxed);
    }

    /// The version of the filter that [`Shared::filter`] gives, or an older one.
    pub(super) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn filter(&self) -> Filter {
        lock(&self.filter).clone()
    }

    pub(super) fn change_filter(&self, change: impl FnOnce(&mut Filter)) {
        change(&mut lock(&self.filter));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// From here on [`Shared::wake`] wakes these.
    pub(super) fn attach(&self, wakes: Vec<Arc<EventFd>>) {
        *lock(&self.wakes) = wakes;
    }

    /// Has every pair look at its port again.
    pub(super) fn wake(&self) {
        for wake in lock(&self.wakes).iter() {
            // A full counter wakes as well.
            let _ = wake.write(1);
        }
    }
}
