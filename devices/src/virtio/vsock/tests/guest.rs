//! The guest's side of a vsock device, small: it posts receive buffers, sends packets and reads what comes. And a rig that
//! runs the device's worker in an event loop on the test's own thread, with a clock that the test moves.
use super::super::{
    Host, Vsock, VsockWorker,
    packet::{HEADER, Header, Op, STREAM, Shutdown},
};
use crate::virtio::{
    Interrupt, MutEventSubscriber, Setup, Signals, VirtioDevice,
    queue::{Queue, Ring},
    testing::{Count, Driver, HIGH, NEXT, WRITE, memory},
};
use event_manager::{EventManager, SubscriberOps};
use std::{
    collections::VecDeque,
    io,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering, fence},
        mpsc,
    },
    time::{Duration, Instant},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// How a driver lays packets out in descriptors.
#[derive(Debug, Clone, Copy)]
pub enum Layout {
    /// Linux before 6.3: header and data apart.
    Apart,
    /// Linux from 6.3: one buffer.
    Together,
    /// Pieces of 7 bytes, then the rest.
    Pieces,
}

impl Layout {
    /// Lengths of the descriptors of a packet of `len` bytes.
    fn parts(self, len: usize) -> Vec<usize> {
        match self {
            Self::Apart if len > HEADER => vec![HEADER, len - HEADER],
            Self::Apart | Self::Together => vec![len],
            Self::Pieces => {
                let mut parts = vec![7; 7];
                parts.retain(|_| len >= 56);
                parts.push(len - 7 * parts.len());
                parts
            }
        }
    }
}

const QUEUE: u16 = 128;
/// Bytes of a receive buffer.
const BUFFER: usize = 4096;
const RX_BUFFERS: u64 = HIGH;
const TX_BUFFERS: u64 = HIGH + (512 << 10);
/// Bytes of the largest packet that the guest sends.
pub const MAX_PACKET: usize = (64 << 10) - 256;
const TX_SLOTS: u16 = 8;

/// The guest's side.
pub struct Guest {
    pub rx: Driver,
    pub tx: Driver,
    event: Driver,
    layout: Layout,
    per_chain: u16,
    tx_sent: u16,
    /// Packets whose slots the guest has taken back.
    tx_reaped: u16,
    /// If the guest keeps to EVENT_IDX: it kicks and looks only when asked to.
    strict: Option<Strict>,
    /// Packets that have come.
    pub inbox: VecDeque<(Header, Vec<u8>)>,
}

impl Guest {
    pub fn new(memory: &GuestMemoryMmap, layout: Layout) -> Self {
        let mut guest = Self {
            rx: Driver::at(memory.clone(), QUEUE, 0),
            tx: Driver::at(memory.clone(), QUEUE, 0x40000),
            event: Driver::at(memory.clone(), 8, 0x80000),
            per_chain: if matches!(layout, Layout::Pieces) { 8 } else { 2 },
            layout,
            tx_sent: 0,
            tx_reaped: 0,
            strict: None,
            inbox: VecDeque::new(),
        };
        for slot in 0..QUEUE / guest.per_chain {
            guest.post(slot);
        }
        guest
    }

    /// A guest that neither kicks nor looks without need, as Linux does with EVENT_IDX.
    pub fn strict(memory: &GuestMemoryMmap, layout: Layout) -> Self {
        Self {
            strict: Some(Strict::default()),
            ..Self::new(memory, layout)
        }
    }

    /// Kicks, if the device wants that.
    fn kick(&mut self, queue: usize) {
        let driver = if queue == 0 { &self.rx } else { &self.tx };
        let read = |at| driver.memory.read_obj::<u16>(GuestAddress(at)).unwrap();
        let wanted = self.strict.as_mut().is_none_or(|strict| {
            fence(Ordering::SeqCst);
            let event = read(driver.queue.used + 4 + 8 * u64::from(QUEUE));
            let new = read(driver.queue.available + 2);
            let old = std::mem::replace(&mut strict.kicked[queue], new);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        });
        if wanted {
            driver.kick.write(1).unwrap();
        }
    }

    /// Whether an interrupt says that there is something to look at. What comes from here on is told by another.
    fn is_called(&mut self, queue: usize) -> bool {
        let Some(strict) = &mut self.strict else { return true };
        let calls = strict.bells[queue].load(Ordering::Acquire);
        std::mem::replace(&mut strict.heard[queue], calls) != calls
    }

    /// Asks for an interrupt for what comes after `seen`; `false` if it has come already.
    fn ask(&mut self, queue: usize) -> bool {
        let driver = if queue == 0 { &self.rx } else { &self.tx };
        let seen = if queue == 0 { driver.seen() } else { self.tx_reaped };
        if self.strict.is_none() {
            return true;
        }
        let event = GuestAddress(driver.queue.available + 4 + 2 * u64::from(QUEUE));
        driver.memory.write_obj(seen, event).unwrap();
        fence(Ordering::SeqCst);
        let used: u16 = driver.memory.read_obj(GuestAddress(driver.queue.used + 2)).unwrap();
        used == seen
    }

    fn reap(&mut self) {
        if self.is_called(1) {
            loop {
                let used = GuestAddress(self.tx.queue.used + 2);
                self.tx_reaped = self.tx.memory.read_obj(used).unwrap();
                if self.ask(1) {
                    return;
                }
            }
        }
    }

    fn post(&mut self, slot: u16) {
        let at = RX_BUFFERS + u64::from(slot) * BUFFER as u64;
        chain(&self.rx, slot * self.per_chain, at, &self.layout.parts(BUFFER), WRITE);
        self.rx.publish(slot * self.per_chain);
    }

    /// A header for the guest's and the host's port, with 256 KiB of room.
    pub fn header((guest, host): (u32, u32), op: Op) -> Header {
        Header {
            source_cid: 3,
            destination_cid: 2,
            source_port: guest,
            destination_port: host,
            len: 0,
            kind: STREAM,
            op,
            flags: 0,
            room: 256 << 10,
            forwarded: 0,
        }
    }

    /// The ports that answer a packet.
    pub fn answering(header: &Header) -> (u32, u32) {
        (header.destination_port, header.source_port)
    }

    /// Sends a packet, if the transmit queue has room.
    pub fn try_send(&mut self, header: &Header, data: &[u8]) -> bool {
        self.reap();
        if self.tx_sent.wrapping_sub(self.tx_reaped) >= TX_SLOTS {
            return false;
        }
        let slot = self.tx_sent % TX_SLOTS;
        self.tx_sent = self.tx_sent.wrapping_add(1);
        let at = TX_BUFFERS + u64::from(slot) * (64 << 10);
        let header = Header {
            len: header.len.max(data.len() as u32),
            ..*header
        };
        let packet = [&header.bytes(), data].concat();
        self.tx.memory.write_slice(&packet, GuestAddress(at)).unwrap();
        chain(&self.tx, slot * 8, at, &self.layout.parts(packet.len()), 0);
        self.tx.publish(slot * 8);
        self.kick(1);
        true
    }

    pub fn send(&mut self, header: &Header, data: &[u8]) {
        assert!(self.try_send(header, data), "the transmit queue is full");
    }

    pub fn shutdown(&mut self, ports: (u32, u32), what: Shutdown) {
        let header = Header {
            flags: what.flags(),
            ..Self::header(ports, Op::Shutdown)
        };
        self.send(&header, b"");
    }

    /// Collects what has come, gives the buffers back and kicks.
    pub fn receive(&mut self) -> &mut VecDeque<(Header, Vec<u8>)> {
        if self.is_called(0) {
            self.take();
            while !self.ask(0) {
                self.take();
            }
        }
        &mut self.inbox
    }

    fn take(&mut self) {
        let used = self.rx.used();
        for (head, len) in &used {
            let slot = *head as u16 / self.per_chain;
            let bytes = self
                .rx
                .bytes(RX_BUFFERS + u64::from(slot) * BUFFER as u64, *len as usize);
            let (header, data) = bytes.split_first_chunk().unwrap();
            let header = Header::parse(header);
            assert_eq!(header.len as usize, data.len());
            self.inbox.push_back((header, data.to_vec()));
            self.post(slot);
        }
        if !used.is_empty() {
            self.kick(0);
        }
    }

    /// Offers a buffer for an event.
    pub fn offer_event(&mut self) {
        self.event.add(&[], &[4]);
        self.event.kick.write(1).unwrap();
    }

    pub fn events(&mut self) -> Vec<u32> {
        let used = self.event.used();
        let at = |n: usize| GuestAddress(0x90000 + 4 * n as u64);
        let memory = &self.event.memory;
        used.iter()
            .enumerate()
            .map(|(n, _)| memory.read_obj(at(n)).unwrap())
            .collect()
    }

    pub fn interrupts(&self) -> u32 {
        self.rx.count.used.load(Ordering::Relaxed)
    }

    pub fn queues(&self) -> Vec<Queue> {
        [&self.rx, &self.tx, &self.event]
            .map(|driver| driver.queue.clone())
            .to_vec()
    }

    /// The device's ends, and how all of them reach the driver.
    pub fn setup(&self, queues: Vec<Queue>) -> Setup {
        let signals = match &self.strict {
            None => Signals::new("vsock", Box::new(self.rx.count.clone())),
            Some(strict) => Signals::new("vsock", Box::new(strict.bells.clone())),
        };
        let kicks = [&self.rx, &self.tx, &self.event].map(|driver| driver.kick.clone());
        let rings = (0..).zip(queues).zip(kicks).map(|((index, queue), kick)| {
            Ring::start(
                queue,
                index,
                &self.rx.memory,
                self.strict.is_some(),
                (kick, signals.clone()),
            )
            .map_err(|(_, error)| error)
            .unwrap()
        });
        Setup {
            memory: self.rx.memory.clone(),
            features: 1 << 32,
            rings: rings.collect(),
            signals,
        }
    }

    pub fn count(&self) -> &Count {
        &self.rx.count
    }
}

/// Interrupts of each queue, and which of them the guest has heard; how far it had come at its last decision to kick.
#[derive(Default)]
struct Strict {
    bells: Arc<[AtomicU32; 3]>,
    heard: [u32; 3],
    kicked: [u16; 2],
}

impl Interrupt for Arc<[AtomicU32; 3]> {
    fn used(&self, queue: u16) {
        self[usize::from(queue)].fetch_add(1, Ordering::AcqRel);
    }

    fn config(&self) {}
}

fn chain(driver: &Driver, first: u16, at: u64, parts: &[usize], flags: u16) {
    let (mut index, mut at) = (first, at);
    for (n, len) in parts.iter().enumerate() {
        let next = if n + 1 < parts.len() { NEXT } else { 0 };
        driver.descriptor(index, at, *len as u32, (flags | next, index + 1));
        index += 1;
        at += *len as u64;
    }
}

/// A host whose ports are served by the test: streams dialed by the guest come out of the receiver.
pub fn host(
    closed: u32,
    clock: impl Fn() -> Instant + Send + 'static,
) -> (Host, String, mpsc::Receiver<(u32, UnixStream)>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("coracle-vsock-{}-{id}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (sender, dialed) = mpsc::channel();
    let dial = move |port| {
        if port == closed {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        sender.send((port, theirs)).unwrap();
        Ok(ours.into())
    };
    let host = Host {
        listener: listener.into(),
        dial: Box::new(dial),
        clock: Box::new(clock),
    };
    (host, path.to_str().unwrap().to_owned(), dialed)
}

/// A device in an event loop on this thread.
pub struct Rig {
    pub guest: Guest,
    pub device: Vsock,
    path: String,
    dialed: mpsc::Receiver<(u32, UnixStream)>,
    events: EventManager<Arc<Mutex<dyn MutEventSubscriber>>>,
    worker: Option<(event_manager::SubscriberId, Arc<Mutex<VsockWorker>>)>,
    now: Arc<Mutex<Instant>>,
    queues: Vec<Queue>,
}

impl Rig {
    pub const CLOSED_PORT: u32 = 666;

    pub fn new() -> Self {
        Self::with(Layout::Apart)
    }

    pub fn with(layout: Layout) -> Self {
        let now = Arc::new(Mutex::new(Instant::now()));
        let clock = now.clone();
        let (host, path, dialed) = host(Self::CLOSED_PORT, move || *clock.lock().unwrap());
        let guest = Guest::new(&memory(), layout);
        let mut rig = Self {
            device: Vsock::new(3, host),
            path,
            dialed,
            events: EventManager::new().unwrap(),
            worker: None,
            now,
            queues: guest.queues(),
            guest,
        };
        rig.resume();
        rig
    }

    pub fn resume(&mut self) {
        let setup = self.guest.setup(self.queues.clone());
        let worker = self.device.start(setup).unwrap().pop().unwrap();
        let worker = Arc::new(Mutex::new(worker));
        let id = self.events.add_subscriber(worker.clone());
        self.worker = Some((id, worker));
    }

    pub fn pause(&mut self) {
        let (id, worker) = self.worker.take().unwrap();
        self.events.remove_subscriber(id).unwrap();
        let worker = Arc::into_inner(worker).unwrap().into_inner().unwrap();
        self.queues = self
            .device
            .stop(vec![worker])
            .into_iter()
            .map(|ring| ring.stop().1)
            .collect();
    }

    /// As a driver does that is unbound and bound again.
    pub fn reset(&mut self) {
        self.pause();
        self.device.reset();
        self.guest = Guest::new(&memory(), Layout::Apart);
        self.queues = self.guest.queues();
        self.resume();
    }

    /// Runs the worker until it has nothing to do.
    pub fn turn(&mut self) {
        for _ in 0..10_000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the worker spins");
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        self.turn();
        *self.now.lock().unwrap() += Duration::from_millis(ms);
        let worker = self.worker.as_ref().unwrap().1.clone();
        worker.lock().unwrap().ring_the_bell();
        drop(worker);
        std::thread::sleep(Duration::from_millis(2));
        self.turn();
    }

    /// The next packet for the guest.
    pub fn packet(&mut self) -> (Header, Vec<u8>) {
        self.turn();
        self.guest.receive();
        self.guest.inbox.pop_front().expect("a packet for the guest")
    }

    /// What the last packet for the guest does.
    pub fn last_op(&mut self) -> Op {
        self.turn();
        self.guest.receive();
        self.guest.inbox.drain(..).next_back().unwrap().0.op
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).unwrap()
    }

    pub fn dialed(&mut self) -> Option<UnixStream> {
        self.turn();
        self.dialed.try_recv().ok().map(|(_, stream)| stream)
    }

    /// An open connection from this port of the guest.
    pub fn open(&mut self, port: u32) -> ((u32, u32), UnixStream) {
        let ports = (port, 1000);
        self.guest.send(&Guest::header(ports, Op::Request), b"");
        let (header, _) = self.packet();
        assert_eq!(header.op, Op::Response);
        (ports, self.dialed().unwrap())
    }

    pub fn peers(&self) -> usize {
        self.worker.as_ref().unwrap().1.lock().unwrap().exchange.peers()
    }

    pub fn has_failed(&self) -> bool {
        self.worker.as_ref().unwrap().1.lock().unwrap().rx.has_failed()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
