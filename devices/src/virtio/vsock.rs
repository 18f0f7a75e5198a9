//! virtio-vsock (Virtio 1.2 §5.10): stream connections between the guest and programs on the host, through Unix sockets.
//!
//! ```text
//! program ──CONNECT──▶ listening socket ─▶ ┌──────────┐ ─▶ receive queue ─▶ guest
//! program ◀─────── dialed socket ◀──────── │ Exchange │ ◀─ transmit queue ◀─ guest
//!                                          └──────────┘
//! ```
//!
//! The protocol on the host is Firecracker's. `exchange` has the connections; this module has the queues, the timer and
//! the event loop's side. The worker runs on an I/O thread, never blocks there, and copies no byte that a socket takes at
//! once. Connections outlive a pause, but not a reset of the device.
use super::{
    EventOps, EventSet, Events, MutEventSubscriber, Setup, VirtioDevice,
    config_space::ConfigSpace,
    queue::{Ring, RingError},
};
use exchange::{Delivered, Exchange, Watch};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};
use table::Token;
use vmm_sys_util::timerfd::TimerFd;

mod connect_line;
mod connection;
mod exchange;
mod gather;
mod packet;
mod peer;
mod table;

pub use connection::Ports;
pub use exchange::Host;
pub use table::MAX_PEERS;

/// Queues (§5.10.2).
const RX: u32 = 0;
const TX: u32 = 1;
const EVENT: u32 = 2;
/// What else the worker watches.
const LISTENER: u32 = 3;
const TIMER: u32 = 4;
/// Marks events of peers; the rest is their token.
const PEER: u32 = 1 << 31;

/// The event that ends all connections (§5.10.6.6).
const TRANSPORT_RESET: u32 = 0;

/// How long the guest's transmitted packets may stay unreported, if they are few. It has no use for the news but to free
/// their memory.
const UNREPORTED: Duration = Duration::from_millis(10);

/// The device before, between and after drivers.
#[derive(Debug)]
pub struct Vsock {
    config: Arc<ConfigSpace>,
    /// While no worker has it.
    exchange: Option<Exchange>,
    announce: bool,
}

impl Vsock {
    /// A device for a guest with the address `guest_cid`.
    pub fn new(guest_cid: u32, host: Host) -> Self {
        Self {
            config: Arc::new(ConfigSpace::new(u64::from(guest_cid).to_le_bytes(), 0..0)),
            exchange: Some(Exchange::new(guest_cid.into(), host)),
            announce: false,
        }
    }

    /// The driver comes out of a snapshot: when it runs on, it is told that its connections are gone, and gets no packets
    /// before it has taken note.
    pub fn announce_reset(&mut self) {
        self.announce = true;
    }
}

impl VirtioDevice for Vsock {
    type Worker = VsockWorker;
    const TYPE: u16 = 19;

    fn features(&self) -> u64 {
        // VIRTIO_VSOCK_F_STREAM, and no SEQPACKET (§5.10.3).
        1 << 0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 128, 8]
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn start(&mut self, mut setup: Setup) -> io::Result<Vec<VsockWorker>> {
        let (rx, tx) = (setup.require(RX as u16)?, setup.require(TX as u16)?);
        let timer = TimerFd::new()?;
        let exchange = self
            .exchange
            .take()
            .ok_or_else(|| io::Error::other("a worker is missing"))?;
        Ok(vec![VsockWorker {
            rx,
            tx,
            events: setup.take(EVENT as u16),
            exchange,
            timer,
            armed: None,
            unreported: 0,
            report_by: None,
            gate: if std::mem::take(&mut self.announce) {
                Gate::Announce
            } else {
                Gate::Open
            },
        }])
    }

    fn stop(&mut self, workers: Vec<VsockWorker>) -> Vec<Ring> {
        let mut rings = Vec::new();
        for worker in workers {
            rings.extend([worker.rx, worker.tx].into_iter().chain(worker.events));
            self.announce |= worker.gate == Gate::Announce;
            self.exchange = Some(worker.exchange);
        }
        rings
    }

    fn reset(&mut self) {
        self.announce = false;
        if let Some(exchange) = &mut self.exchange {
            exchange.reset();
        }
    }
}

/// Whether packets go to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Not before it has been told of the reset.
    Announce,
    /// Not before it has taken note, which it shows by giving the event's buffer back.
    Announced,
}

/// The half that runs while the driver does.
#[derive(Debug)]
pub struct VsockWorker {
    rx: Ring,
    tx: Ring,
    events: Option<Ring>,
    exchange: Exchange,
    timer: TimerFd,
    /// When the timer goes off.
    armed: Option<Instant>,
    /// Transmitted packets that the guest has not been interrupted for, and when it shall be.
    unreported: u16,
    report_by: Option<Instant>,
    gate: Gate,
}

impl VsockWorker {
    fn handle(&mut self, events: Events, watch: &mut Ops<'_, '_>) -> Result<(), RingError> {
        let mut transmit = false;
        match events.data() {
            RX => {}
            TX => transmit = true,
            EVENT => self.event_kicked()?,
            LISTENER => self.exchange.accept(watch),
            TIMER => {
                self.armed = None;
                self.exchange.expire(watch);
                self.report_overdue()?;
            }
            peer => self
                .exchange
                .ready(Token::from_data(peer & !PEER), events.event_set(), watch),
        }
        self.exchange_packets(transmit, watch)?;
        self.arm();
        Ok(())
    }

    fn exchange_packets(&mut self, mut transmit: bool, watch: &mut Ops<'_, '_>) -> Result<(), RingError> {
        loop {
            if transmit {
                self.transmit(watch)?;
            }
            if self.gate != Gate::Open {
                return Ok(());
            }
            let blocked = self.exchange.is_full_of_refusals();
            if self.exchange.deliver(&mut self.rx, watch)? == Delivered::Some {
                // Comes back after the thread's other work; the counter of an eventfd does not fill up from here.
                let _ = self.rx.kick().write(1);
            }
            transmit = blocked && !self.exchange.is_full_of_refusals();
            if !transmit {
                return Ok(());
            }
        }
    }

    fn transmit(&mut self, watch: &mut Ops<'_, '_>) -> Result<(), RingError> {
        let before = self.tx.next_used();
        if self.exchange.transmit(&mut self.tx, watch)? {
            let _ = self.tx.kick().write(1);
        }
        self.unreported = self.unreported.saturating_add(self.tx.next_used().wrapping_sub(before));
        if self.unreported >= self.tx.size() / 4 {
            return self.report();
        }
        if self.unreported > 0 && self.report_by.is_none() {
            self.report_by = Some(self.exchange.now() + UNREPORTED);
        }
        Ok(())
    }

    fn report(&mut self) -> Result<(), RingError> {
        self.unreported = 0;
        self.tx.signal()
    }

    fn report_overdue(&mut self) -> Result<(), RingError> {
        if self.report_by.is_some_and(|at| at <= self.exchange.now()) {
            self.report_by = None;
            if self.unreported > 0 {
                return self.report();
            }
        }
        Ok(())
    }

    fn event_kicked(&mut self) -> Result<(), RingError> {
        let Some(events) = &mut self.events else { return Ok(()) };
        match self.gate {
            Gate::Open => {}
            Gate::Announce => {
                let Some(mut chain) = events.pop()? else { return Ok(()) };
                if !chain.writable.write(&TRANSPORT_RESET.to_le_bytes()) {
                    return Err(RingError::Protocol("an event buffer has no room for an event"));
                }
                events.push(chain, size_of::<u32>() as u32)?;
                events.signal()?;
                self.gate = Gate::Announced;
            }
            Gate::Announced => self.gate = Gate::Open,
        }
        Ok(())
    }

    /// Sets the timer to the first moment at which something is due.
    fn arm(&mut self) {
        let next = match (self.exchange.first_deadline(), self.report_by) {
            (Some(a), Some(b)) => a.min(b),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return,
        };
        // A timer that is too early costs one look; one that is too late would be wrong.
        if self.armed.is_none_or(|armed| next < armed) {
            let left = next.saturating_duration_since(self.exchange.now());
            if let Err(error) = self.timer.reset(left.max(Duration::from_micros(1)), None) {
                log::warn!("vsock: cannot set a timer: {error}");
            }
            self.armed = Some(next);
        }
    }

    fn fail(&mut self, error: &RingError, ops: &mut EventOps) {
        self.rx.fail(error);
        for ring in [Some(&self.rx), Some(&self.tx), self.events.as_ref()]
            .into_iter()
            .flatten()
        {
            // An event that cannot be removed comes again, and is answered in the same way.
            let _ = ops.remove(Events::empty(ring.kick()));
        }
        self.exchange.stop_listening(&mut Ops(ops));
    }
}

#[cfg(test)]
impl VsockWorker {
    /// Makes the timer go off at once: a test moves the clock, and the timer knows only the real one.
    fn ring_the_bell(&mut self) {
        self.timer.reset(Duration::from_micros(1), None).unwrap();
    }
}

impl MutEventSubscriber for VsockWorker {
    fn init(&mut self, ops: &mut EventOps) {
        let rings = [
            (RX, Some(&self.rx)),
            (TX, Some(&self.tx)),
            (EVENT, self.events.as_ref()),
        ];
        for (data, ring) in rings {
            if let Some(ring) = ring {
                ring.watch(ops, data);
            }
        }
        if let Err(error) = ops.add(Events::with_data(
            &self.timer,
            TIMER,
            EventSet::IN | EventSet::EDGE_TRIGGERED,
        )) {
            log::error!("vsock: cannot watch its timer: {error}");
        }
        self.exchange.watch_all(&mut Ops(ops));
        self.arm();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.rx.has_failed() {
            return;
        }
        if let Err(error) = self.handle(events, &mut Ops(ops)) {
            self.fail(&error, ops);
        }
    }
}

/// The event loop.
struct Ops<'a, 'b>(&'a mut EventOps<'b>);

impl Watch for Ops<'_, '_> {
    fn add(&mut self, socket: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let wanted = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.0
            .add(Events::with_data_raw(socket.as_raw_fd(), PEER | token.data(), wanted))
            .map_err(io::Error::other)
    }

    fn remove(&mut self, socket: BorrowedFd<'_>) {
        // One that was not added is not there either.
        let _ = self.0.remove(Events::empty_raw(socket.as_raw_fd()));
    }

    fn listen(&mut self, listener: BorrowedFd<'_>, on: bool) {
        let events = Events::with_data_raw(listener.as_raw_fd(), LISTENER, EventSet::IN);
        let done = if on { self.0.add(events) } else { self.0.remove(events) };
        if let Err(error) = done {
            log::warn!("vsock: cannot watch for programs that connect: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
