//! virtio-balloon (Virtio 1.2 §5.5): guest memory that goes back to the host.
//!
//! Owns the queues while the driver runs, never the memory: what the guest gives up is shown to a [`Release`], page runs
//! joined. The worker runs on an I/O thread, [`Handle`]'s methods on any. A page that the guest names wrongly is passed
//! over, as the specification has no answer for it.
use super::{
    EventOps, EventSet, Events, MutEventSubscriber, Setup, VirtioDevice,
    chain::Chain,
    config_space::ConfigSpace,
    memory::Buffers,
    queue::{Ring, RingError},
};
use handle::ACTUAL;
pub use handle::{Handle, Statistics};
use std::{io, mem, sync::Arc, time::Duration};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::timerfd::TimerFd;

mod handle;

/// Gives memory back to the host: its bytes may change to anything. Called on the I/O thread; ends may lie anywhere.
pub type Release = Arc<dyn Fn(VolatileSlice<'_>) + Send + Sync>;

/// Bytes of a page, as a balloon counts (§5.5.6).
pub const PAGE: u64 = 4096;

/// Bits of features (§5.5.3).
const F_STATS_VQ: u32 = 1;
const F_DEFLATE_ON_OOM: u32 = 2;
const F_FREE_PAGE_HINT: u32 = 3;
const F_PAGE_REPORTING: u32 = 5;

/// Entries of each queue. Linux puts 32 blocks into one report.
const QUEUE: u16 = 128;
/// Pages of one request that are served; Linux names 256. Those beyond stay where they are.
const MAX_PAGES: usize = 1 << 16;
/// Page numbers that are read, sorted and joined at once.
const BATCH: usize = 1024;
/// Values in one report of statistics that are read; Linux has 10.
const MAX_STATISTICS: usize = 64;

/// The event of the timer; those of queues are their indices.
const TICK: u32 = u32::MAX;

/// What an operator decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The guest may take memory back before it runs out of it.
    pub deflate_on_oom: bool,
    /// How often the guest is asked for statistics; zero never asks.
    pub statistics: Duration,
    /// The guest can be asked for its unused pages.
    pub hinting: bool,
    /// The guest tells of unused pages by itself.
    pub reporting: bool,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Hints,
    Reports,
}

/// The device before, between and after drivers.
pub struct Balloon {
    options: Options,
    handle: Arc<Handle>,
    config: Arc<ConfigSpace>,
    release: Release,
}

impl Balloon {
    /// A device that obeys `handle`, which outlives it.
    pub fn new(options: Options, handle: Arc<Handle>, release: Release) -> Self {
        // num_pages, actual, free_page_hint_cmd_id, poison_val; the driver writes the second.
        let config = Arc::new(ConfigSpace::new([0; 16], ACTUAL..ACTUAL + 4));
        handle.attach(&config, options.hinting);
        Self {
            options,
            handle,
            config,
            release,
        }
    }

    /// Which queue has which role. §5.5.2 gives every queue a number of its own; Linux leaves out the numbers of those
    /// that were not negotiated. Only the latter has no gaps.
    fn roles(setup: &Setup) -> Vec<(u16, Role)> {
        let optional = [
            (F_STATS_VQ, 2, Role::Statistics),
            (F_FREE_PAGE_HINT, 3, Role::Hints),
            (F_PAGE_REPORTING, 4, Role::Reports),
        ];
        let there: Vec<_> = optional.into_iter().filter(|(bit, ..)| setup.has(*bit)).collect();
        let dense = (2..)
            .take(there.len())
            .all(|index| setup.rings.iter().any(|ring| ring.index() == index));
        let numbered = (2..)
            .zip(there)
            .map(|(next, (_, fixed, role))| (if dense { next } else { fixed }, role));
        [(0, Role::Inflate), (1, Role::Deflate)]
            .into_iter()
            .chain(numbered)
            .collect()
    }
}

impl std::fmt::Debug for Balloon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balloon")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl VirtioDevice for Balloon {
    type Worker = BalloonWorker;
    const TYPE: u16 = 5;

    fn features(&self) -> u64 {
        [
            (F_STATS_VQ, !self.options.statistics.is_zero()),
            (F_DEFLATE_ON_OOM, self.options.deflate_on_oom),
            (F_FREE_PAGE_HINT, self.options.hinting),
            (F_PAGE_REPORTING, self.options.reporting),
        ]
        .into_iter()
        .filter(|(_, on)| *on)
        .fold(0, |all, (bit, _)| all | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE; 5]
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn start(&mut self, mut setup: Setup) -> io::Result<Vec<BalloonWorker>> {
        let timer = if setup.has(F_STATS_VQ) && !self.options.statistics.is_zero() {
            let mut timer = TimerFd::new()?;
            timer.reset(self.options.statistics, Some(self.options.statistics))?;
            Some(timer)
        } else {
            None
        };
        let roles = Self::roles(&setup);
        let rings = mem::take(&mut setup.rings).into_iter().map(|ring| {
            let role = roles.iter().find(|(index, _)| *index == ring.index());
            (role.map(|(_, role)| *role), ring)
        });
        Ok(vec![BalloonWorker {
            rings: rings.collect(),
            memory: setup.memory,
            handle: self.handle.clone(),
            release: self.release.clone(),
            timer,
            statistics: None,
            request: None,
        }])
    }

    fn stop(&mut self, workers: Vec<BalloonWorker>) -> Vec<Ring> {
        workers.into_iter().flat_map(BalloonWorker::go_home).collect()
    }

    fn reset(&mut self) {
        // Another driver starts with an empty balloon.
        let _ = self.config.write(ACTUAL, &[0; 4]);
        self.handle.forget();
    }
}

/// The half that runs while the driver does.
pub struct BalloonWorker {
    /// With their roles; one without has been enabled for nothing.
    rings: Vec<(Option<Role>, Ring)>,
    memory: GuestMemoryMmap,
    handle: Arc<Handle>,
    release: Release,
    timer: Option<TimerFd>,
    /// The buffer in which the driver has sent statistics; it sends the next when it gets this back (§5.5.6.3).
    statistics: Option<Chain>,
    /// The request whose hints the driver sends.
    request: Option<u32>,
}

impl MutEventSubscriber for BalloonWorker {
    fn init(&mut self, ops: &mut EventOps) {
        for (_, ring) in &self.rings {
            ring.watch(ops, ring.index().into());
        }
        if let Some(timer) = &self.timer
            && let Err(error) = ops.add(Events::with_data(timer, TICK, EventSet::IN | EventSet::EDGE_TRIGGERED))
        {
            log::error!("balloon: cannot watch its timer: {error}");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.data() == TICK
            && let Some(timer) = &mut self.timer
            // A timer with an interval goes on only when it has been read; it has expired, so this does not wait.
            && let Err(error) = timer.wait()
        {
            log::warn!("balloon: its timer is lost: {error}");
        }
        if !self.serve(events.data()) {
            // An event that cannot be removed comes again, and is answered in the same way.
            let _ = ops.remove(events);
        }
    }
}

impl BalloonWorker {
    /// Serves a queue or the timer; `false` if that queue is broken.
    fn serve(&mut self, data: u32) -> bool {
        let wanted = |(role, ring): &&mut (Option<Role>, Ring)| {
            data == u32::from(ring.index()) || data == TICK && *role == Some(Role::Statistics)
        };
        let Some((role, ring)) = self.rings.iter_mut().find(wanted) else {
            return true;
        };
        if ring.has_failed() {
            return false;
        }
        let (memory, release) = (&self.memory, &*self.release);
        let result = match role {
            Some(Role::Inflate) => ring.drain(|chain| {
                inflate(&mut chain.readable, memory, release);
                Ok(0)
            }),
            Some(Role::Statistics) => serve_statistics(ring, &mut self.statistics, data == TICK, &self.handle),
            Some(Role::Hints) => {
                let (handle, request) = (&self.handle, &mut self.request);
                ring.drain(|chain| {
                    take_hint(chain, handle, request, release);
                    Ok(0)
                })
            }
            Some(Role::Reports) => ring.drain(|chain| {
                chain.writable.parts().for_each(release);
                Ok(0)
            }),
            // The pages are there again as soon as the guest touches them.
            Some(Role::Deflate) | None => ring.drain(|_| Ok(0)),
        };
        if let Err(error) = &result {
            ring.fail(error);
        }
        result.is_ok()
    }

    fn go_home(self) -> Vec<Ring> {
        let mut statistics = self.statistics;
        self.rings
            .into_iter()
            .map(|(role, mut ring)| {
                // The driver sends no other buffer before it has this one back, so it is looked at again after a pause.
                if role == Some(Role::Statistics)
                    && let Some(chain) = statistics.take()
                {
                    ring.unpop(chain);
                }
                ring
            })
            .collect()
    }
}

/// Gives back the pages whose numbers a request lists (§5.5.6).
fn inflate(list: &mut Buffers, memory: &GuestMemoryMmap, release: &dyn Fn(VolatileSlice<'_>)) {
    let mut left = MAX_PAGES;
    let mut bytes = [0; 4 * BATCH];
    let mut pages = Vec::with_capacity(BATCH);
    loop {
        let count = (list.len() / 4).min(BATCH).min(left);
        let Some(raw) = bytes.get_mut(..4 * count).filter(|raw| !raw.is_empty()) else {
            return;
        };
        if !list.read(raw) {
            return;
        }
        left -= count;
        pages.clear();
        pages.extend(raw.as_chunks().0.iter().map(|page| u32::from_le_bytes(*page)));
        pages.sort_unstable();
        pages.dedup();
        for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let Some(first) = run.first() else { continue };
            let (at, len) = (u64::from(*first) * PAGE, run.len() * PAGE as usize);
            // What lies outside memory is left out, and with it what follows it.
            memory
                .get_slices(GuestAddress(at), len)
                .map_while(Result::ok)
                .for_each(release);
        }
    }
}

/// Keeps what the driver says, and its buffer until the next tick.
fn serve_statistics(ring: &mut Ring, held: &mut Option<Chain>, tick: bool, handle: &Handle) -> Result<(), RingError> {
    if tick && let Some(chain) = held.take() {
        ring.push(chain, 0)?;
    }
    for _ in 0..ring.size() {
        let Some(mut chain) = ring.pop()? else {
            if ring.enable_kicks()? {
                continue;
            }
            return ring.signal();
        };
        let mut statistics = Statistics::default();
        // A packed tag of 16 and a value of 64 bits each.
        let (mut tag, mut value) = ([0; 2], [0; 8]);
        for _ in 0..MAX_STATISTICS {
            if chain.readable.len() < tag.len() + value.len() {
                break;
            }
            if chain.readable.read(&mut tag) && chain.readable.read(&mut value) {
                statistics.set(u16::from_le_bytes(tag), u64::from_le_bytes(value));
            }
        }
        handle.update(statistics);
        // A driver has one such buffer; one that sends more gets the older back.
        if let Some(older) = held.replace(chain) {
            ring.push(older, 0)?;
        }
    }
    // As for other queues: the thread's other workers have their turn.
    let _ = ring.kick().write(1);
    ring.signal()
}

/// An answer to a request for unused pages (§5.5.6.4): its number, such pages, or another number at the end.
fn take_hint(chain: &mut Chain, handle: &Handle, request: &mut Option<u32>, release: &dyn Fn(VolatileSlice<'_>)) {
    let mut command = [0; 4];
    if chain.readable.read(&mut command) {
        let number = u32::from_le_bytes(command);
        let before = mem::replace(request, handle.is_asking(number).then_some(number));
        if request.is_none()
            && let Some(number) = before
        {
            handle.finish(number);
        }
    }
    if request.is_some() {
        chain.writable.parts().for_each(release);
    }
}

#[cfg(test)]
mod tests;
