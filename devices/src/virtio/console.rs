//! virtio-console (Virtio 1.2 §5.3): a console for the guest and any number of named byte channels.
//!
//! Owns the queues while the driver runs. The worker runs on an I/O thread, [`Port`]'s methods on whichever thread moves
//! the bytes on the host's side. It never waits: output that the host has no room for stays in the guest's buffers, and
//! input that the guest has no buffers for stays with the host.
//!
//! A device that is a console and nothing else (`hvc0` in Linux) does not offer MULTIPORT: the guest needs no control
//! queues then, and a change of the terminal's size is a change of the configuration. With MULTIPORT it is a message about
//! whose order of fields kernels disagree, so a machine had better give named ports a device of their own.
use super::{
    EventOps, EventSet, Events, MutEventSubscriber, Setup, Signals, VirtioDevice,
    chain::Chain,
    config_space::ConfigSpace,
    queue::{Ring, RingError},
};
use control::Control;
pub use port::{Port, PortSpec};
use std::{io, mem, slice, sync::Arc, time::Duration};
use vmm_sys_util::{
    eventfd::{EFD_NONBLOCK, EventFd},
    timerfd::TimerFd,
};

mod control;
mod port;

/// Ports that a device has at most; Linux takes 512.
pub const MAX_PORTS: usize = 32;
/// Bytes of a port's name at most.
pub const MAX_NAME: usize = 255;

/// The size of the console is in the configuration.
const F_SIZE: u32 = 0;
/// There are control queues, and there may be several ports.
const F_MULTIPORT: u32 = 1;

/// Entries of a port's queues. Linux keeps a page in each of them for input.
const PORT_QUEUE: u16 = 16;
/// Entries of the control queues.
const CONTROL_QUEUE: u16 = 32;
/// Queues of the control messages.
const CONTROL_IN: u16 = 2;
const CONTROL_OUT: u16 = 3;

/// Bytes that are taken out of guest memory at once.
const PIECE: usize = 4096;
/// Bytes of one port that are moved before the thread's other workers have their turn.
const TURN: usize = 256 << 10;
/// Bytes of a half-sent request that are kept for the host when the driver goes.
const KEPT: usize = 64 << 10;

/// The event of the host's side; those of queues are their indices.
const HOST: u32 = u32::MAX;
/// The event of the reminder's timer.
const REMIND: u32 = u32::MAX - 1;
/// When the driver is reminded of the terminal's size: milliseconds since it started, or since the last time. Linux looks
/// at it only when it hears of a change, and hears of none before its port is complete, some time after DRIVER_OK.
///
/// After the last of them, a driver that has written nothing yet is taken to listen. Linux throws input away before its port
/// is complete, and without control messages it does not say when that is; on a busy machine it may take long.
const REMINDERS: [u64; 5] = [10, 30, 120, 480, 2000];

/// The device before, between and after drivers.
#[derive(Debug)]
pub struct Console {
    ports: Vec<Arc<Port>>,
    multiport: bool,
    config: Arc<ConfigSpace>,
    wake: Arc<EventFd>,
    sizes: Vec<u16>,
    /// For each port what the host had no room for when the driver went.
    kept: Vec<Vec<u8>>,
}

impl Console {
    /// A device with these ports, of which those beyond [`MAX_PORTS`] are left out.
    ///
    /// # Errors
    /// An event cannot be created: too many open files.
    pub fn new(ports: Vec<PortSpec>) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let count = ports.len().min(MAX_PORTS);
        let multiport = count > 1 || ports.iter().any(|port| !port.console);
        let mut bytes = [0; 12]; // columns, rows, number of ports, emergency write
        if let Some(max_ports) = bytes.get_mut(4..8) {
            max_ports.copy_from_slice(&(count as u32).to_le_bytes());
        }
        let config = Arc::new(ConfigSpace::new(bytes, 0..0));
        let ports: Vec<_> = ports
            .into_iter()
            .take(count)
            .map(|spec| Arc::new(Port::new(spec, &wake, &config)))
            .collect();
        let mut sizes = vec![PORT_QUEUE; 2 * count];
        if multiport {
            sizes.splice(2.min(2 * count)..2.min(2 * count), [CONTROL_QUEUE; 2]);
        }
        Ok(Self {
            kept: vec![Vec::new(); count],
            ports,
            multiport,
            config,
            wake,
            sizes,
        })
    }

    /// The host's ends, in the order of [`Console::new`]. They outlive the device.
    pub fn ports(&self) -> &[Arc<Port>] {
        &self.ports
    }
}

impl VirtioDevice for Console {
    type Worker = ConsoleWorker;
    const TYPE: u16 = 3;

    fn features(&self) -> u64 {
        1 << F_SIZE | if self.multiport { 1 << F_MULTIPORT } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    fn start(&mut self, mut setup: Setup) -> io::Result<Vec<ConsoleWorker>> {
        let multiport = setup.has(F_MULTIPORT);
        let control = if multiport {
            Some((setup.require(CONTROL_IN)?, setup.require(CONTROL_OUT)?))
        } else {
            None
        };
        let mut lines = Vec::new();
        for (index, port) in (0..).zip(&self.ports) {
            // §5.3.2: the control queues come between those of port 0 and those of port 1.
            let first = if index == 0 { 0 } else { 2 + 2 * index };
            let (Some(input), Some(output)) = (setup.take(first), setup.take(first + 1)) else {
                continue;
            };
            let kept = self.kept.get_mut(usize::from(index)).map(mem::take).unwrap_or_default();
            lines.push(Line {
                index: usize::from(index),
                port: port.clone(),
                input,
                output,
                chain: None,
                kept,
            });
        }
        for port in &self.ports {
            port.start();
        }
        Ok(vec![ConsoleWorker {
            control: control.map(|(input, output)| Control::new(input, output, self.ports.clone())),
            lines,
            reminder: Reminder::new(setup.signals, &self.ports, multiport)?,
            unused: setup.rings,
            wake: self.wake.clone(),
            broken: false,
        }])
    }

    fn stop(&mut self, workers: Vec<ConsoleWorker>) -> Vec<Ring> {
        let mut rings = Vec::new();
        for worker in workers {
            for line in worker.lines {
                let index = line.index;
                let (kept, input, output) = line.go_home();
                if let Some(home) = self.kept.get_mut(index) {
                    *home = kept;
                }
                rings.extend([input, output]);
            }
            rings.extend(worker.control.into_iter().flat_map(Control::go_home));
            rings.extend(worker.unused);
        }
        for port in &self.ports {
            port.stop();
        }
        rings
    }
}

/// The half that runs while the driver does.
#[derive(Debug)]
pub struct ConsoleWorker {
    lines: Vec<Line>,
    control: Option<Control>,
    /// Queues that the driver has enabled by halves.
    unused: Vec<Ring>,
    wake: Arc<EventFd>,
    reminder: Option<Reminder>,
    broken: bool,
}

/// Tells a driver of the terminal's size that it has had no chance to hear of.
#[derive(Debug)]
struct Reminder {
    signals: Signals,
    timer: TimerFd,
    left: slice::Iter<'static, u64>,
}

impl Reminder {
    /// `None` for ports that have no size, and of which the driver says when they are open.
    fn new(signals: Signals, ports: &[Arc<Port>], multiport: bool) -> io::Result<Option<Self>> {
        if multiport && !ports.iter().any(|port| port.has_size()) {
            return Ok(None);
        }
        let mut reminder = Self {
            signals,
            timer: TimerFd::new()?,
            left: REMINDERS.iter(),
        };
        reminder.set()?;
        Ok(Some(reminder))
    }

    fn set(&mut self) -> io::Result<()> {
        match self.left.next() {
            Some(ms) => Ok(self.timer.reset(Duration::from_millis(*ms), None)?),
            None => Ok(()),
        }
    }

    /// Says whether it was for the last time.
    fn remind(&mut self, ports: &[Line]) -> bool {
        let last = self.left.len() == 0;
        if ports.iter().any(|line| line.port.has_size()) {
            self.signals.config();
        }
        if let Err(error) = self.set() {
            log::warn!("console: cannot set a timer: {error}");
        }
        last
    }
}

impl ConsoleWorker {
    fn rings(&self) -> impl Iterator<Item = &Ring> {
        let control = self.control.iter().flat_map(Control::rings);
        self.lines
            .iter()
            .flat_map(|line| [&line.input, &line.output])
            .chain(control)
    }

    /// Serves what the event `data` may have changed: a queue, or everything if the host has done something.
    fn serve(&mut self, data: u32) {
        if self.broken {
            return;
        }
        for line in &mut self.lines {
            let mine = |ring: &Ring| data == HOST || data == u32::from(ring.index());
            if mine(&line.output)
                && let Err(error) = line.send()
            {
                line.output.fail(&error);
                self.broken = true;
            }
            // Who writes listens as well.
            if (mine(&line.input) || mine(&line.output))
                && let Err(error) = line.receive()
            {
                line.input.fail(&error);
                self.broken = true;
            }
        }
        if let Some(control) = &mut self.control {
            match control.serve(data) {
                // A port that the guest has opened may have input waiting.
                Ok(true) if data != HOST => self.serve(HOST),
                Ok(_) => {}
                Err(()) => self.broken = true,
            }
        }
    }
}

impl MutEventSubscriber for ConsoleWorker {
    fn init(&mut self, ops: &mut EventOps) {
        for ring in self.rings() {
            ring.watch(ops, ring.index().into());
        }
        // As with kicks, every signal is an edge.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let host = Events::with_data(&*self.wake, HOST, edge);
        let timer = self.reminder.as_ref();
        let timer = timer.map(|reminder| Events::with_data(&reminder.timer, REMIND, edge));
        for event in timer.into_iter().chain([host]) {
            if let Err(error) = ops.add(event) {
                log::error!("console: cannot watch the host's side: {error}");
            }
        }
        // What the host has sent or made room for while no driver was there.
        self.serve(HOST);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match &mut self.reminder {
            Some(reminder) if events.data() == REMIND => {
                if reminder.remind(&self.lines) && self.control.is_none() {
                    for line in &self.lines {
                        line.port.set_open(true);
                    }
                    self.serve(HOST);
                }
            }
            _ => self.serve(events.data()),
        }
        if self.broken {
            // An event that cannot be removed comes again, and is answered in the same way.
            let _ = ops.remove(events);
        }
    }
}

/// A port with its queues.
#[derive(Debug)]
struct Line {
    index: usize,
    port: Arc<Port>,
    input: Ring,
    output: Ring,
    /// A request of the driver that the host has no room for yet.
    chain: Option<Chain>,
    /// Bytes of it, or of one of an earlier driver, that come next.
    kept: Vec<u8>,
}

impl Line {
    /// Moves what the guest has written to the host, as far as that has room.
    fn send(&mut self) -> Result<(), RingError> {
        let mut left = TURN;
        loop {
            self.output.disable_kicks()?;
            while self.send_kept() {
                let next = match self.chain.take() {
                    Some(chain) => Some(chain),
                    None => self.output.pop()?,
                };
                let Some(mut chain) = next else { break };
                let piece = chain.readable.len().min(PIECE);
                self.kept.resize(piece, 0);
                if !chain.readable.read(&mut self.kept) {
                    self.kept.clear();
                }
                if chain.readable.is_empty() {
                    self.output.push(chain, 0)?;
                } else {
                    self.chain = Some(chain);
                }
                // An empty request costs as well.
                left = left.saturating_sub(piece.max(64));
                if left == 0 {
                    // The counter of an eventfd does not fill up from here.
                    let _ = self.output.kick().write(1);
                    return self.output.signal();
                }
            }
            // Without room the guest's further requests are of no interest: the host says when it has some.
            if !self.kept.is_empty() || !self.output.enable_kicks()? {
                return self.output.signal();
            }
        }
    }

    /// Whether the host has taken all that is kept for it.
    fn send_kept(&mut self) -> bool {
        while !self.kept.is_empty() {
            let taken = self.port.put(&self.kept);
            self.kept.drain(..taken.min(self.kept.len()));
            // An output that was full may have got rid of all meanwhile, and then says nothing later.
            if !self.kept.is_empty() && (taken == 0 || !self.port.has_room()) {
                return false;
            }
        }
        true
    }

    /// Moves what the host has sent into the guest's buffers, as far as there are any.
    fn receive(&mut self) -> Result<(), RingError> {
        for _ in 0..2 * self.input.size() {
            if !self.port.has_input() {
                // A buffer that the guest adds is of no interest before there is something to put in.
                self.input.disable_kicks()?;
                return self.input.signal();
            }
            let Some(mut chain) = self.input.pop()? else {
                if self.input.enable_kicks()? {
                    continue;
                }
                return self.input.signal();
            };
            if chain.writable.is_empty() {
                return Err(RingError::Protocol("a buffer for input has no room"));
            }
            let bytes = self.port.take_input(chain.writable.len().min(PIECE));
            let written = if chain.writable.write(&bytes) { bytes.len() } else { 0 };
            self.input.push(chain, written as u32)?;
        }
        // As above.
        let _ = self.input.kick().write(1);
        self.input.signal()
    }

    /// Gives the rings up; what the guest has half sent is kept, within a limit.
    fn go_home(mut self) -> (Vec<u8>, Ring, Ring) {
        if let Some(mut chain) = self.chain.take() {
            let (start, more) = (self.kept.len(), chain.readable.len().min(KEPT));
            self.kept.resize(start + more, 0);
            if !chain.readable.read(self.kept.get_mut(start..).unwrap_or_default()) {
                self.kept.truncate(start);
            }
            if !chain.readable.is_empty() {
                log::warn!(
                    "console: {} bytes of output are lost with their driver",
                    chain.readable.len()
                );
            }
            if let Err(error) = self.output.push(chain, 0).and_then(|()| self.output.signal()) {
                self.output.fail(&error);
            }
        }
        (self.kept, self.input, self.output)
    }
}

#[cfg(test)]
mod tests;
