//! The worker of a pair of queues. Runs on an I/O thread; watches both kicks and the port, and reads no counter: kicks are
//! edge-triggered.
use super::{
    super::{
        EventOps, EventSet, Events,
        queue::{Ring, RingError},
    },
    port::Port,
    receive::{Receiver, Round},
    transmit::Transmitter,
};
use std::os::fd::{AsRawFd, RawFd};

/// What an event is about.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const PORT: u32 = 2;

/// A receive queue, a transmit queue, and what they are connected to.
#[derive(Debug)]
pub struct Pair {
    index: u16,
    port: Port,
    receiver: Receiver,
    transmitter: Transmitter,
    /// The port's descriptor, and what it is watched for.
    watched: Option<(RawFd, EventSet)>,
    round: Round,
}

impl Pair {
    pub(super) fn new(index: u16, receiver: Receiver, transmitter: Transmitter, port: Port) -> Self {
        Self {
            index,
            port,
            receiver,
            transmitter,
            watched: None,
            round: Round::Starved,
        }
    }

    pub(super) fn stop(self) -> [Ring; 2] {
        self.port.notify(None);
        [self.receiver.stop(&self.port), self.transmitter.stop(&self.port)]
    }

    pub(super) fn init(&mut self, ops: &mut EventOps) {
        self.receiver.ring().watch(ops, RECEIVE);
        self.transmitter.ring().watch(ops, TRANSMIT);
        for (timer, data) in [(self.receiver.timer(), RECEIVE), (self.transmitter.timer(), TRANSMIT)] {
            let Some(fd) = timer else { continue };
            let events = Events::with_data_raw(fd, data, EventSet::IN | EventSet::EDGE_TRIGGERED);
            if let Err(error) = ops.add(events) {
                log::error!("network: cannot watch a timer, so a limit may hold packets up: {error}");
            }
        }
        self.port.notify(Some(self.receiver.ring().kick().clone()));
        // A driver may have made buffers available before it said that it is ready.
        self.port.renew();
        self.settle(ops, Self::receive);
    }

    pub(super) fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.port.is_offered() {
            self.watch(EventSet::empty(), ops);
            self.port.renew();
            self.receiver.forget();
            self.settle(ops, |pair| pair.transmitter.forget().and_then(|()| pair.transmit()));
        }
        let set = events.event_set();
        self.settle(ops, |pair| match events.data() {
            RECEIVE => pair.receive(),
            TRANSMIT => pair.transmit(),
            _ => {
                if set.contains(EventSet::OUT) {
                    pair.transmit()?;
                }
                if set.intersects(EventSet::IN | EventSet::ERROR | EventSet::HANG_UP) {
                    pair.receive()?;
                }
                Ok(())
            }
        });
    }

    fn receive(&mut self) -> Result<(), RingError> {
        let port = &self.port;
        self.round = self.receiver.run(port).inspect_err(|error| self.receiver.fail(error))?;
        Ok(())
    }

    fn transmit(&mut self) -> Result<(), RingError> {
        // What the port has not taken waits for the port alone.
        let port = &self.port;
        self.transmitter
            .run(port)
            .inspect_err(|error| self.transmitter.fail(error))
    }

    /// Does something, and watches the port for what it then waits for. After a broken ring nothing is watched.
    fn settle(&mut self, ops: &mut EventOps, act: impl FnOnce(&mut Self) -> Result<(), RingError>) {
        let alive = act(self).is_ok();
        let mut wanted = EventSet::empty();
        if alive && self.round == Round::Waiting {
            wanted |= EventSet::IN;
        }
        if alive && self.transmitter.is_waiting() {
            wanted |= EventSet::OUT;
        }
        if !alive {
            for kick in [self.receiver.ring().kick(), self.transmitter.ring().kick()] {
                // One that stays causes the same refusal again.
                let _ = ops.remove(Events::empty_raw(kick.as_raw_fd()));
            }
        }
        self.watch(wanted, ops);
    }

    /// Errors are reported even of a descriptor that is watched for nothing, so it is then not watched at all.
    fn watch(&mut self, wanted: EventSet, ops: &mut EventOps) {
        let wanted = self.port.fd().map(|fd| (fd, wanted)).filter(|(_, set)| !set.is_empty());
        if wanted == self.watched {
            return;
        }
        let events = |(fd, set)| Events::with_data_raw(fd, PORT, set);
        let result = match (self.watched, wanted) {
            (Some((old, _)), Some(new)) if old == new.0 => ops.modify(events(new)),
            (old, new) => old
                .map_or(Ok(()), |old| ops.remove(events(old)))
                .and_then(|()| new.map_or(Ok(()), |new| ops.add(events(new)))),
        };
        match result {
            Ok(()) => self.watched = wanted,
            Err(error) => log::error!("network: cannot watch the port of queue pair {}: {error}", self.index),
        }
    }
}
