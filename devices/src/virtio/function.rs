//! What every virtio device does alike, whatever its transport: the status machine, feature negotiation, the registers of
//! queues, and the way of the queues to the workers and back (Virtio 1.2 §2.1, §2.2, §3.1).
//!
//! ```text
//! RESET ─▶ ACKNOWLEDGE ─▶ DRIVER ─▶ FEATURES_OK ─▶ DRIVER_OK      queues may be set up between the last two
//!   ▲                                                  │ start: queues go out
//!   └──────────────── writing 0 ◀──────────────────────┘ stop: queues come home      (pause and resume do the same)
//! ```
//!
//! A transport holds it under its lock, on the thread of the vCPU that makes the access; DRIVER_OK and a reset wait for
//! the I/O thread meanwhile, which never takes that lock.
use super::{
    Setup, Signals, VirtioDevice,
    config_space::ConfigSpace,
    io_thread::{IoThread, Running},
    queue::{Queue, Ring},
};
use std::{fmt, io, mem, sync::Arc};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bits of the device status (§2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver runs.
    pub const DRIVER_OK: u8 = 4;
    /// Both agree on the features.
    pub const FEATURES_OK: u8 = 8;
    /// The device cannot go on until it is reset.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}
use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};

/// Bit numbers of features that are not a device's own (§6).
pub mod feature {
    /// Chains may lie in a table of their own.
    pub const INDIRECT_DESC: u32 = 28;
    /// Kicks and interrupts are asked for by index.
    pub const EVENT_IDX: u32 = 29;
    /// Virtio 1.
    pub const VERSION_1: u32 = 32;
}

/// Features that every device here has.
const RING_FEATURES: u64 = 1 << feature::INDIRECT_DESC | 1 << feature::EVENT_IDX | 1 << feature::VERSION_1;

/// A field of a queue that the driver sets up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueField {
    /// Entries.
    Size,
    /// Low or high half of the descriptor table's address.
    Descriptors(Half),
    /// Low or high half of the available ring's address.
    Available(Half),
    /// Low or high half of the used ring's address.
    Used(Half),
    /// Whether the queue is enabled.
    Ready,
}

/// Half of a 64-bit register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

/// One device, seen from its transport.
pub struct Function {
    engine: Box<dyn Engine>,
    kind: u16,
    features: u64,
    driver_features: u64,
    status: u8,
    /// All queues while no driver runs; those that are out have a copy of their last set-up here.
    queues: Vec<Queue>,
    kicks: Vec<Arc<EventFd>>,
    config: Arc<ConfigSpace>,
    memory: GuestMemoryMmap,
    signals: Signals,
    running: bool,
    /// Its queues are lost for good: even a reset does not help.
    dead: bool,
}

impl Function {
    /// A device after power-on, whose workers run on `threads` in turn.
    ///
    /// # Errors
    /// An event cannot be created: too many open files.
    pub fn new<D: VirtioDevice>(
        device: D,
        threads: Vec<Arc<IoThread>>,
        memory: GuestMemoryMmap,
        signals: Signals,
    ) -> io::Result<Self> {
        let queues: Vec<Queue> = device.queue_sizes().iter().copied().map(Queue::new).collect();
        let kicks = queues
            .iter()
            .map(|_| Ok(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            kind: D::TYPE,
            features: device.features() | RING_FEATURES,
            driver_features: 0,
            status: 0,
            queues,
            kicks,
            config: device.config().clone(),
            engine: Box::new(Placed {
                device,
                threads,
                out: Vec::new(),
            }),
            memory,
            signals,
            running: false,
            dead: false,
        })
    }

    /// Device type (§5).
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// The event that each queue's kick signals, for ioeventfds.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// The device-specific configuration.
    pub fn config(&self) -> &Arc<ConfigSpace> {
        &self.config
    }

    /// 32 of the offered features; `page` 1 has bits 32 to 63.
    pub fn features(&self, page: u32) -> u32 {
        half(self.features, page)
    }

    /// 32 of the features that the driver has accepted.
    pub fn driver_features(&self, page: u32) -> u32 {
        half(self.driver_features, page)
    }

    /// Accepts features, which a driver does before FEATURES_OK.
    pub fn set_driver_features(&mut self, page: u32, value: u32) {
        if self.status & DRIVER == 0 || self.status & (FEATURES_OK | FAILED) != 0 {
            return self.refuse("features are accepted between DRIVER and FEATURES_OK");
        }
        match page {
            0 => self.driver_features = self.driver_features >> 32 << 32 | u64::from(value),
            1 => self.driver_features = self.driver_features & u64::from(u32::MAX) | u64::from(value) << 32,
            _ if value == 0 => {}
            _ => self.refuse("a feature that does not exist"),
        }
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        let broken = self.dead || self.signals.needs_reset();
        self.status | if broken { NEEDS_RESET } else { 0 }
    }

    /// A write to the status register: 0 resets, every other value adds bits in their order.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        if self.dead || value & self.status != self.status {
            return self.refuse("status bits are cleared by a reset only");
        }
        if value & FAILED != 0 {
            self.status |= FAILED;
            return;
        }
        for bit in [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK] {
            if value & bit != 0 && self.status & bit == 0 && !self.advance(bit) {
                return;
            }
        }
    }

    /// Sets the next status bit, if its turn has come and what it stands for succeeds.
    fn advance(&mut self, bit: u8) -> bool {
        let before = match bit {
            ACKNOWLEDGE => 0,
            DRIVER => ACKNOWLEDGE,
            FEATURES_OK => ACKNOWLEDGE | DRIVER,
            _ => ACKNOWLEDGE | DRIVER | FEATURES_OK,
        };
        if self.status != before {
            self.refuse("status bits are set in the order of the specification");
            return false;
        }
        match bit {
            FEATURES_OK => {
                let accepted = self.driver_features;
                // §3.1.1: the driver reads the bit back and sees the refusal. §6.1: no driver without VERSION_1.
                if accepted & !self.features != 0 || accepted & 1 << feature::VERSION_1 == 0 {
                    self.refuse("the driver wants features that are not offered, or not VERSION_1");
                    return false;
                }
                self.status |= bit;
            }
            DRIVER_OK => {
                self.status |= bit;
                self.start();
            }
            _ => self.status |= bit,
        }
        true
    }

    /// A queue as its registers show it.
    pub fn queue(&self, index: u16) -> Option<&Queue> {
        self.queues.get(usize::from(index))
    }

    /// A write to a register of a queue.
    pub fn set_queue(&mut self, index: u16, field: QueueField, value: u32) {
        if self.status & (FEATURES_OK | DRIVER_OK | FAILED) != FEATURES_OK {
            // Linux clears QueueReady after a reset, which has cleared it already.
            if !(field == QueueField::Ready && value == 0) {
                self.refuse("queues are set up between FEATURES_OK and DRIVER_OK");
            }
            return;
        }
        let Some(queue) = self.queues.get_mut(usize::from(index)) else {
            return self.refuse("no such queue");
        };
        if queue.ready && field != QueueField::Ready {
            return self.refuse("an enabled queue keeps its set-up");
        }
        match field {
            QueueField::Size => match u16::try_from(value) {
                Ok(size) if size.is_power_of_two() && size <= queue.max_size => queue.size = size,
                _ => self.refuse("a queue's size is a power of two up to its largest"),
            },
            QueueField::Descriptors(part) => set_half(&mut queue.descriptors, part, value),
            QueueField::Available(part) => set_half(&mut queue.available, part, value),
            QueueField::Used(part) => set_half(&mut queue.used, part, value),
            QueueField::Ready => queue.ready = value & 1 != 0,
        }
    }

    /// A kick that came as a write rather than by an ioeventfd.
    pub fn kick(&self, index: u16) {
        if let Some(kick) = self.kicks.get(usize::from(index)) {
            // A full counter is a kick already.
            let _ = kick.write(1);
        }
    }

    /// A read of the device-specific configuration; 0 beyond its end.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.config.read(usize::try_from(offset).unwrap_or(usize::MAX), data);
    }

    /// A write to the device-specific configuration.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.status & DRIVER == 0 || !self.config.write(at, data) {
            self.refuse("this part of the configuration cannot be written");
        }
    }

    /// Takes the queues home while the VM is paused. All vCPUs are out of the guest.
    pub fn pause(&mut self) {
        self.stop();
    }

    /// Sends the queues out again. Each is served once, for kicks that came in between are lost, and the driver is told of
    /// what was used.
    pub fn resume(&mut self) {
        if self.status & DRIVER_OK != 0 && !self.running && !self.dead && !self.signals.needs_reset() {
            self.start();
            for (index, queue) in (0..).zip(&self.queues) {
                if queue.ready {
                    self.kick(index);
                    self.signals.used(index);
                }
            }
        }
    }

    fn start(&mut self) {
        let mut rings = Vec::new();
        let event_idx = self.driver_features & 1 << feature::EVENT_IDX != 0;
        for ((index, queue), kick) in (0..).zip(&self.queues).zip(&self.kicks) {
            if !queue.ready {
                continue;
            }
            let link = (kick.clone(), self.signals.clone());
            match Ring::start(queue.clone(), index, &self.memory, event_idx, link) {
                Ok(ring) => rings.push(ring),
                Err((_, error)) => return self.signals.fail(format_args!("queue {index}: {error}")),
            }
        }
        self.config.attach(Some(self.signals.clone()));
        let setup = Setup {
            memory: self.memory.clone(),
            features: self.driver_features,
            signals: self.signals.clone(),
            rings,
        };
        match self.engine.start(setup) {
            Ok(()) => self.running = true,
            Err(error) => {
                // Workers that were placed before the error go home first.
                if self.engine.stop().is_err() {
                    self.dead = true;
                }
                self.signals.fail(format_args!("cannot start: {error}"));
            }
        }
    }

    fn stop(&mut self) {
        self.config.attach(None);
        if !mem::take(&mut self.running) {
            return;
        }
        match self.engine.stop() {
            Ok(queues) => {
                for (index, queue) in queues {
                    if let Some(home) = self.queues.get_mut(usize::from(index)) {
                        *home = queue;
                    }
                }
            }
            Err(error) => {
                self.dead = true;
                self.signals.fail(format_args!("cannot stop: {error}"));
            }
        }
    }

    fn reset(&mut self) {
        self.stop();
        if self.dead {
            return;
        }
        self.engine.reset();
        self.signals.reset();
        self.status = 0;
        self.driver_features = 0;
        for (queue, kick) in self.queues.iter_mut().zip(&self.kicks) {
            *queue = Queue::new(queue.max_size);
            // Kicks of the driver that is gone.
            let _ = kick.read();
        }
    }

    fn refuse(&self, rule: &str) {
        log::debug!("{}: the driver breaks a rule: {rule}", self.signals.name());
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.signals.name())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.stop();
    }
}

fn half(value: u64, page: u32) -> u32 {
    match page {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(register: &mut u64, part: Half, value: u32) {
    *register = match part {
        Half::Low => *register >> 32 << 32 | u64::from(value),
        Half::High => *register & u64::from(u32::MAX) | u64::from(value) << 32,
    };
}

/// A device and the place of its workers, without its type.
trait Engine: Send {
    fn start(&mut self, setup: Setup) -> io::Result<()>;
    fn stop(&mut self) -> io::Result<Vec<(u16, Queue)>>;
    fn reset(&mut self);
}

struct Placed<D: VirtioDevice> {
    device: D,
    threads: Vec<Arc<IoThread>>,
    out: Vec<Running<D::Worker>>,
}

impl<D: VirtioDevice> Engine for Placed<D> {
    fn start(&mut self, setup: Setup) -> io::Result<()> {
        let workers = self.device.start(setup)?;
        for (worker, thread) in workers.into_iter().zip(self.threads.iter().cycle()) {
            self.out.push(thread.run(worker)?);
        }
        Ok(())
    }

    fn stop(&mut self) -> io::Result<Vec<(u16, Queue)>> {
        let workers = self.out.drain(..).map(Running::recall).collect::<io::Result<_>>()?;
        Ok(self.device.stop(workers).into_iter().map(Ring::stop).collect())
    }

    fn reset(&mut self) {
        self.device.reset();
    }
}
