//! The driver's side of a queue, for tests and fuzz targets: it writes what it is told, right or wrong.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]
use super::{
    EventOps, Events, Interrupt, MutEventSubscriber, Setup, Signals, VirtioDevice,
    config_space::ConfigSpace,
    function::{Function, Half, QueueField, status},
    queue::{Queue, Ring, RingError},
};
use event_manager::{EventManager, SubscriberId, SubscriberOps};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Guest memory starts at 0; a second region follows after a gap.
pub const MEMORY: u64 = 1 << 20;
/// First address of the second region.
pub const HIGH: u64 = 4 << 20;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x6000;
/// Where buffers go that [`Driver::add`] lays out.
const BUFFERS: u64 = 0x10_000;

/// Flags of a descriptor.
pub const NEXT: u16 = 1;
/// The device writes it.
pub const WRITE: u16 = 2;
/// It is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Counts interrupts.
#[derive(Debug, Default)]
pub struct Count {
    /// For used buffers.
    pub used: AtomicU32,
    /// For the configuration or the status.
    pub config: AtomicU32,
}

impl Interrupt for Arc<Count> {
    fn used(&self, _queue: u16) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    fn config(&self) {
        self.config.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two regions of guest memory.
pub fn memory() -> GuestMemoryMmap {
    let regions = [
        (GuestAddress(0), MEMORY as usize),
        (GuestAddress(HIGH), MEMORY as usize),
    ];
    GuestMemoryMmap::from_ranges(&regions).unwrap()
}

/// A driver with one queue.
#[derive(Debug)]
pub struct Driver {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// The queue as set up.
    pub queue: Queue,
    /// Interrupts so far.
    pub count: Arc<Count>,
    /// Signals of the device.
    pub signals: Signals,
    /// The kick.
    pub kick: Arc<EventFd>,
    next_descriptor: u16,
    next_buffer: u64,
    available: u16,
    seen: u16,
}

impl Driver {
    /// A queue of `size` entries in fresh memory.
    pub fn new(size: u16) -> Self {
        Self::at(memory(), size, 0)
    }

    /// A queue of `size` entries whose tables and buffers are moved up by `shift`, for a second queue in one memory.
    pub fn at(memory: GuestMemoryMmap, size: u16, shift: u64) -> Self {
        let count = Arc::new(Count::default());
        Self {
            memory,
            queue: Queue {
                ready: true,
                descriptors: DESCRIPTORS + shift,
                available: AVAILABLE + shift,
                used: USED + shift,
                ..Queue::new(size)
            },
            signals: Signals::new("test", Box::new(count.clone())),
            count,
            kick: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            next_descriptor: 0,
            next_buffer: BUFFERS + shift,
            available: 0,
            seen: 0,
        }
    }

    /// The device's end as queue `index`, without EVENT_IDX.
    pub fn ring(&self, index: u16) -> Ring {
        Ring::start(
            self.queue.clone(),
            index,
            &self.memory,
            false,
            (self.kick.clone(), self.signals.clone()),
        )
        .map_err(|(_, error)| error)
        .unwrap()
    }

    /// Writes descriptor `index`.
    pub fn descriptor(&self, index: u16, at: u64, len: u32, (flags, next): (u16, u16)) {
        let entry = GuestAddress(self.queue.descriptors + 16 * u64::from(index));
        self.memory.write_obj(at, entry).unwrap();
        self.memory.write_obj(len, GuestAddress(entry.0 + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(entry.0 + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(entry.0 + 14)).unwrap();
    }

    /// Makes the chain that starts at `head` available.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.available % self.queue.size);
        self.memory
            .write_obj(head, GuestAddress(self.queue.available + 4 + 2 * slot))
            .unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Writes the available index as it is.
    pub fn set_available(&self, index: u16) {
        self.memory
            .write_obj(index, GuestAddress(self.queue.available + 2))
            .unwrap();
    }

    /// Adds a chain of buffers with these bytes, then with this much room, and makes it available; gives the addresses of the
    /// buffers.
    pub fn add(&mut self, readable: &[&[u8]], writable: &[usize]) -> Vec<u64> {
        let head = self.next_descriptor % self.queue.size;
        let parts = readable
            .iter()
            .map(|bytes| (bytes.len(), Some(bytes)))
            .chain(writable.iter().map(|len| (*len, None)));
        let count = readable.len() + writable.len();
        let mut addresses = Vec::new();
        for (i, (len, bytes)) in parts.enumerate() {
            let (index, at) = (self.next_descriptor % self.queue.size, self.next_buffer);
            self.next_descriptor = self.next_descriptor.wrapping_add(1);
            self.next_buffer += len as u64;
            if let Some(bytes) = bytes {
                self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
            }
            let flags = if i + 1 < count { NEXT } else { 0 } | if bytes.is_none() { WRITE } else { 0 };
            self.descriptor(index, at, len as u32, (flags, (index + 1) % self.queue.size));
            addresses.push(at);
        }
        self.publish(head);
        addresses
    }

    /// What the device has returned since the last call: heads and written bytes.
    pub fn used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.queue.used + 2)).unwrap();
        let mut all = Vec::new();
        while self.seen != index {
            let entry = self.queue.used + 4 + 8 * u64::from(self.seen % self.queue.size);
            let head = self.memory.read_obj(GuestAddress(entry)).unwrap();
            let len = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
            all.push((head, len));
            self.seen = self.seen.wrapping_add(1);
        }
        all
    }

    /// How many of the device's returns were looked at, modulo 2^16.
    pub fn seen(&self) -> u16 {
        self.seen
    }

    /// Bytes of guest memory.
    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}

/// Does with a device what a driver does up to DRIVER_OK: accepts `features` beside VERSION_1, and sets up the first queues
/// as those of `drivers`.
pub fn negotiate(function: &mut Function, features: u32, drivers: &[Driver]) {
    let mut state = 0;
    for bit in [status::ACKNOWLEDGE, status::DRIVER] {
        state |= bit;
        function.set_status(state);
    }
    function.set_driver_features(0, features);
    function.set_driver_features(1, 1);
    state |= status::FEATURES_OK;
    function.set_status(state);
    for (index, Driver { queue, .. }) in (0..).zip(drivers) {
        for (field, value) in [
            (QueueField::Size, queue.size.into()),
            (QueueField::Descriptors(Half::Low), queue.descriptors as u32),
            (QueueField::Available(Half::Low), queue.available as u32),
            (QueueField::Used(Half::Low), queue.used as u32),
            (QueueField::Ready, 1),
        ] {
            function.set_queue(index, field, value);
        }
    }
}

/// A device with two queues, and the configuration that it is given. Its worker returns every chain, and calls those of
/// 100 bytes and more broken.
#[derive(Debug)]
pub struct Echo<const TYPE: u16>(pub Arc<ConfigSpace>);

/// See [`Echo`].
#[derive(Debug)]
pub struct EchoWorker(Vec<Ring>);

impl<const TYPE: u16> VirtioDevice for Echo<TYPE> {
    type Worker = EchoWorker;
    const TYPE: u16 = TYPE;

    fn features(&self) -> u64 {
        1 << 3
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.0
    }

    fn start(&mut self, setup: Setup) -> io::Result<Vec<EchoWorker>> {
        if setup.rings.is_empty() {
            return Err(io::Error::other("nothing to serve"));
        }
        Ok(vec![EchoWorker(setup.rings)])
    }

    fn stop(&mut self, workers: Vec<EchoWorker>) -> Vec<Ring> {
        workers.into_iter().flat_map(|worker| worker.0).collect()
    }
}

impl MutEventSubscriber for EchoWorker {
    fn init(&mut self, ops: &mut EventOps) {
        for ring in &self.0 {
            ring.watch(ops, ring.index().into());
        }
    }

    fn process(&mut self, events: Events, _: &mut EventOps) {
        let mut rings = self.0.iter_mut();
        let ring = rings.find(|ring| u32::from(ring.index()) == events.data()).unwrap();
        let served = ring.drain(|chain| match chain.readable.len() {
            0..100 => Ok(0),
            _ => Err(RingError::Protocol("too long")),
        });
        if let Err(error) = served {
            ring.fail(&error);
        }
    }
}

/// An event loop on the calling thread, which runs workers when it is told to.
pub struct Turns<W> {
    events: EventManager<W>,
    workers: Vec<SubscriberId>,
}

impl<W: MutEventSubscriber> Turns<W> {
    /// Starts the workers.
    pub fn new(workers: Vec<W>) -> Self {
        let mut events = EventManager::new().unwrap();
        let workers = workers
            .into_iter()
            .map(|worker| events.add_subscriber(worker))
            .collect();
        Self { events, workers }
    }

    /// Answers the events that are there.
    pub fn turn(&mut self) {
        self.events.run_with_timeout(0).unwrap();
    }

    /// Takes the workers home.
    pub fn end(mut self) -> Vec<W> {
        self.workers
            .into_iter()
            .map(|worker| self.events.remove_subscriber(worker).unwrap())
            .collect()
    }
}
