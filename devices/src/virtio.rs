//! Virtio 1.2: the contract between a device's function and its transport.
//!
//! ```text
//! driver ──▶ mmio / pci ──▶ Function ──▶ VirtioDevice::start ──▶ Worker on an IoThread ──▶ Ring
//!            registers      status,        queues go out                                     │
//! driver ◀── interrupt ◀─────────────────────────────────────────────────────── Signals ◀────┘
//! ```
//!
//! A device is its function: type, features, queue sizes, configuration bytes, and workers that serve the queues while the
//! driver runs. The status machine, the negotiation, queue registers and interrupts are [`function`]'s and the
//! transport's. Queues move by value: into workers when the driver is ready or the VM resumes, home at a reset or a
//! pause.
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use vm_memory::GuestMemoryMmap;

pub use event_manager::{EventOps, Events, MutEventSubscriber};
pub use vmm_sys_util::epoll::EventSet;

pub mod balloon;
pub mod block;
pub mod chain;
pub mod config_space;
pub mod console;
pub mod disk;
pub mod function;
pub mod io_thread;
pub mod memory;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod vsock;

use config_space::ConfigSpace;
use queue::Ring;

/// What a device is, beside what all have in common.
pub trait VirtioDevice: Send + 'static {
    /// Serves queues while the driver runs; lives on an [`io_thread::IoThread`].
    type Worker: MutEventSubscriber + Send + 'static;
    /// Device type (§5).
    const TYPE: u16;

    /// Feature bits of this function. Those of the ring and of the transport are added by [`function::Function`].
    fn features(&self) -> u64;
    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];
    /// The device-specific configuration.
    fn config(&self) -> &Arc<ConfigSpace>;
    /// DRIVER_OK, or resume: moves the rings into workers, which may run on different threads.
    ///
    /// # Errors
    /// The driver cannot be served; the device then needs a reset. The rings are lost, and with them their state.
    fn start(&mut self, setup: Setup) -> io::Result<Vec<Self::Worker>>;
    /// Reset or pause: the workers have left their threads. Requests in flight are finished here, and the rings come
    /// home.
    fn stop(&mut self, workers: Vec<Self::Worker>) -> Vec<Ring>;
    /// The driver is gone for good: forgets what it had to do with it. No worker is out. A device without memory of its
    /// drivers has nothing to forget.
    fn reset(&mut self) {}
}

/// All that the driver has negotiated.
#[derive(Debug)]
pub struct Setup {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Features that both sides accept.
    pub features: u64,
    /// How to reach the driver.
    pub signals: Signals,
    /// The rings of the queues that the driver has enabled, by ascending index.
    pub rings: Vec<Ring>,
}

impl Setup {
    /// Whether the driver accepted the feature with this bit number.
    pub fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Takes the ring of a queue, if the driver has enabled that.
    pub fn take(&mut self, index: u16) -> Option<Ring> {
        let at = self.rings.iter().position(|ring| ring.index() == index)?;
        Some(self.rings.remove(at))
    }

    /// Takes the ring of a queue that this device cannot do without.
    ///
    /// # Errors
    /// The driver has not enabled it.
    pub fn require(&mut self, index: u16) -> io::Result<Ring> {
        self.take(index)
            .ok_or_else(|| io::Error::other(format!("the driver has not enabled queue {index}")))
    }
}

/// A device on its transport, as the owner of the machine sees it.
pub trait Transport: Send + Sync {
    /// Takes the queues home. All vCPUs are out of the guest.
    fn pause(&self);
    /// Sends the queues out again, before a vCPU runs.
    fn resume(&self);
}

/// How interrupts reach the driver: the transport's part of [`Signals`].
pub trait Interrupt: Send + Sync {
    /// A queue has used buffers (§2.3).
    fn used(&self, queue: u16);
    /// The configuration or the status has changed.
    fn config(&self);
}

/// The device's way to its driver. Clones reach the same driver.
#[derive(Clone)]
pub struct Signals(Arc<Inner>);

struct Inner {
    name: String,
    interrupt: Box<dyn Interrupt>,
    needs_reset: AtomicBool,
}

impl Signals {
    /// The signals of the device called `name`, by the interrupts of its transport.
    pub fn new(name: impl Into<String>, interrupt: Box<dyn Interrupt>) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            interrupt,
            needs_reset: AtomicBool::new(false),
        }))
    }

    /// The device's name, for log lines.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Tells the driver that a queue has used buffers.
    pub fn used(&self, queue: u16) {
        self.0.interrupt.used(queue);
    }

    /// Tells the driver that the configuration has changed.
    pub fn config(&self) {
        self.0.interrupt.config();
    }

    /// The device cannot go on: DEVICE_NEEDS_RESET (§2.1.2). Logged, unless it needed a reset already.
    pub fn fail(&self, why: impl fmt::Display) {
        if !self.0.needs_reset.swap(true, Ordering::AcqRel) {
            log::warn!("{}: {why}; the device waits for a reset by its driver", self.0.name);
            self.config();
        }
    }

    /// Whether the device needs a reset.
    pub fn needs_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    fn reset(&self) {
        self.0.needs_reset.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signals").field(&self.0.name).finish()
    }
}

#[cfg(any(test, feature = "testing"))]
pub mod testing;
