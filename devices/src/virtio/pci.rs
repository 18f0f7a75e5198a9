//! The PCI transport (Virtio 1.2 §4.1), without the legacy interface: a function whose BARs show the common registers, the
//! device-specific configuration, doorbells and the MSI-X table.
//!
//! Runs on the vCPU that makes the access. Kicks normally never come here: the doorbells of a BAR that decodes are
//! connected to the queues' events. Two locks, never held together: the registers' (which waits for I/O threads, see
//! [`Function`]) and that of the MSI-X table. Interrupts take neither.
use super::{
    Interrupt, Signals, Transport,
    function::{Function, Half, QueueField},
};
use crate::{
    bus::Effect,
    irq::IrqLine,
    lock::lock,
    pci::{
        self, Space,
        config_space::{Bar, ConfigError, ConfigSpace, Identity},
        doorbell::Doorbells,
        msix::{self, MsiBackend, Msix},
    },
};
use layout::{COMMON, DEVICE, ISR, MEMORY_BAR, Notify, PENDING, TABLE};
use registers::Registers;
use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering},
    },
};
use vmm_sys_util::eventfd::EventFd;

mod layout;
mod registers;

/// Virtio's vendor, and where its device identifiers begin (§4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// "A vector that is none" (§4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;
/// Bits of the ISR status (§4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Why a function could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Our own layout is wrong.
    #[error("the layout of the function is impossible")]
    Layout(#[from] ConfigError),
    /// Too many open files.
    #[error("cannot create an interrupt of the function; raise the limit on open files")]
    Event(#[from] io::Error),
    /// More queues than the BAR has doorbells for.
    #[error("{0} queues do not fit a PCI function, at most {most} do; use fewer", most = layout::MAX_QUEUES)]
    Queues(usize),
}

/// What a board has for a function.
#[derive(Clone)]
pub struct Wiring {
    /// Where messages go.
    pub messages: Arc<dyn MsiBackend>,
    /// Where kicks come from.
    pub doorbells: Arc<dyn Doorbells>,
    /// Whether doorbells are ports. A guest's write to a port costs far less than one to memory, which the hypervisor has to
    /// decode.
    pub ports: bool,
}

/// See the module.
pub struct PciTransport {
    registers: Mutex<Registers>,
    msix: Mutex<Msix>,
    interrupts: Arc<Interrupts>,
    kicks: Vec<Arc<EventFd>>,
    doorbells: Arc<dyn Doorbells>,
    /// Where the connected doorbells are.
    notify: Notify,
    rung: Mutex<Option<u64>>,
    capabilities: layout::Capabilities,
}

/// The way from the device's signals to vectors.
#[derive(Default)]
struct Interrupts {
    /// Set before anyone can raise one.
    vectors: OnceLock<Vectors>,
    isr: AtomicU8,
}

struct Vectors {
    lines: Vec<IrqLine>,
    /// Whether the guest has turned MSI-X on.
    enabled: AtomicBool,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
}

impl Vectors {
    /// The vector of a queue, or that of the configuration.
    fn of(&self, queue: Option<u16>) -> Option<&AtomicU16> {
        match queue {
            Some(queue) => self.queues.get(usize::from(queue)),
            None => Some(&self.config),
        }
    }
}

impl Interrupts {
    fn raise(&self, queue: Option<u16>) {
        let Some(vectors) = self.vectors.get() else { return };
        if !vectors.enabled.load(Ordering::Acquire) {
            let bit = if queue.is_some() { ISR_QUEUE } else { ISR_CONFIG };
            self.isr.fetch_or(bit, Ordering::AcqRel);
            return;
        }
        let vector = vectors
            .of(queue)
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire));
        if let Some(line) = vectors.lines.get(usize::from(vector)) {
            line.raise();
        }
    }

    /// The vector of a queue or of the configuration, as the driver reads it.
    fn vector(&self, queue: Option<u16>) -> u16 {
        let vector = self.vectors.get().and_then(|vectors| vectors.of(queue));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// Maps an event to a vector; one that does not exist is none (§4.1.5.1.2.1).
    fn set_vector(&self, queue: Option<u16>, vector: u16) {
        let Some(vectors) = self.vectors.get() else { return };
        let exists = usize::from(vector) < vectors.lines.len();
        if let Some(slot) = vectors.of(queue) {
            slot.store(if exists { vector } else { NO_VECTOR }, Ordering::Release);
        }
    }

    /// As after power-on, but for MSI-X itself, which is PCI's and not the device's.
    fn reset(&self) {
        self.isr.store(0, Ordering::Release);
        if let Some(vectors) = self.vectors.get() {
            vectors.config.store(NO_VECTOR, Ordering::Release);
            for queue in &vectors.queues {
                queue.store(NO_VECTOR, Ordering::Release);
            }
        }
    }

    fn enable(&self, enabled: bool) {
        if let Some(vectors) = self.vectors.get() {
            vectors.enabled.store(enabled, Ordering::Release);
        }
    }
}

impl Interrupt for Arc<Interrupts> {
    fn used(&self, queue: u16) {
        self.raise(Some(queue));
    }

    fn config(&self) {
        self.raise(None);
    }
}

impl PciTransport {
    /// The transport of what `make` gives for the signals of the device called `name`, and the config space to plug it
    /// with. Each queue has a vector, and the configuration one.
    ///
    /// # Errors
    /// Those of `make`, and those of the transport itself.
    pub fn new<E: From<TransportError>>(
        name: &str,
        wiring: &Wiring,
        make: impl FnOnce(Signals) -> Result<Function, E>,
    ) -> Result<(Self, ConfigSpace), E> {
        let interrupts = Arc::new(Interrupts::default());
        let function = make(Signals::new(name, Box::new(interrupts.clone())))?;
        Ok(Self::wire(function, interrupts, wiring)?)
    }

    fn wire(
        function: Function,
        interrupts: Arc<Interrupts>,
        wiring: &Wiring,
    ) -> Result<(Self, ConfigSpace), TransportError> {
        let kicks = function.kicks().to_vec();
        let queues = u16::try_from(kicks.len())
            .ok()
            .filter(|queues| *queues <= layout::MAX_QUEUES);
        let queues = queues.ok_or(TransportError::Queues(kicks.len()))?;
        let notify = Notify::new(queues, wiring.ports);
        let msix = Msix::new(queues + 1, &*wiring.messages)?;
        let vectors = Vectors {
            lines: (0..msix.count()).filter_map(|vector| msix.line(vector)).collect(),
            enabled: AtomicBool::new(false),
            config: AtomicU16::new(NO_VECTOR),
            queues: kicks.iter().map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        };
        // Set once: the cell is this function's own.
        let _ = interrupts.vectors.set(vectors);
        let mut space = ConfigSpace::new(&identity(function.kind()));
        let memory = Bar {
            space: Space::Memory,
            size: layout::MEMORY_SIZE,
        };
        space.add_bar(MEMORY_BAR, memory)?;
        if let Some((index, bar)) = notify.bar() {
            space.add_bar(index, bar)?;
        }
        let capabilities = layout::Capabilities::add(&mut space, &function, &notify)?;
        let transport = Self {
            registers: Mutex::new(Registers::new(function, interrupts.clone())),
            msix: Mutex::new(msix),
            interrupts,
            kicks,
            doorbells: wiring.doorbells.clone(),
            notify,
            rung: Mutex::default(),
            capabilities,
        };
        Ok((transport, space))
    }

    fn kick(&self, queue: u64) {
        if let Some(kick) = usize::try_from(queue).ok().and_then(|queue| self.kicks.get(queue)) {
            // A full counter is a kick already.
            let _ = kick.write(1);
        }
    }

    /// The access that the driver has described in the capability for it (§4.1.4.9).
    fn window(&self, space: &ConfigSpace) -> Option<(u8, u64, usize)> {
        let (bar, offset, length) = self.capabilities.window(space);
        let size = space.bars().find(|(index, _)| *index == bar)?.1.size;
        let fits = matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && u64::from(offset) + u64::from(length) <= size;
        fits.then_some((bar, offset.into(), length as usize))
    }
}

impl Transport for PciTransport {
    fn pause(&self) {
        lock(&self.registers).function.pause();
    }

    fn resume(&self) {
        lock(&self.registers).function.resume();
    }
}

/// How a driver knows a virtio device of this type; the class is for people and for rules that name interfaces.
fn identity(kind: u16) -> Identity {
    let class = match kind {
        1 => [0x02, 0x00, 0],
        2 => [0x01, 0x80, 0],
        3 => [0x07, 0x80, 0],
        19 => [0x02, 0x80, 0],
        _ => [0xff, 0x00, 0],
    };
    let device = FIRST_DEVICE.saturating_add(kind);
    Identity {
        vendor: VENDOR,
        device,
        revision: 1,
        class,
        subsystem_vendor: VENDOR,
        subsystem: device,
    }
}

impl pci::Function for PciTransport {
    fn read_config(&self, space: &mut ConfigSpace, offset: u8, data: &mut [u8]) {
        if self.capabilities.touches_window(offset, data.len())
            && let Some((bar, at, length)) = self.window(space)
        {
            let mut bytes = [0xff; 4];
            if let Some(bytes) = bytes.get_mut(..length) {
                self.read_bar(bar, at, bytes);
            }
            space.write(self.capabilities.window_data(), &bytes);
        }
        space.read(offset, data);
    }

    fn write_config(&self, space: &mut ConfigSpace, offset: u8, data: &[u8]) -> Effect {
        space.write(offset, data);
        let control = self.capabilities.msix + msix::CONTROL;
        if layout::overlap(offset, data.len(), control, 2) {
            let mut msix = lock(&self.msix);
            msix.set_control(space.word(control));
            self.interrupts.enable(msix.enabled());
        }
        if self.capabilities.touches_window(offset, data.len())
            && let Some((bar, at, length)) = self.window(space)
        {
            let bytes = space.double_word(self.capabilities.window_data()).to_le_bytes();
            return self.write_bar(bar, at, bytes.get(..length).unwrap_or_default());
        }
        Effect::None
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar != MEMORY_BAR {
            return;
        }
        let within = |range: &Range<u64>| range.contains(&offset);
        if within(&COMMON) {
            lock(&self.registers).read(offset - COMMON.start, data);
        } else if within(&ISR) {
            data.fill(0);
            if let Some(first) = data.first_mut() {
                *first = self.interrupts.isr.swap(0, Ordering::AcqRel);
            }
        } else if within(&DEVICE) {
            lock(&self.registers).function.read_config(offset - DEVICE.start, data);
        } else if within(&TABLE) {
            lock(&self.msix).read_table(offset - TABLE.start, data);
        } else if within(&PENDING) {
            lock(&self.msix).read_pending(offset - PENDING.start, data);
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Effect {
        let within = |range: &Range<u64>| bar == MEMORY_BAR && range.contains(&offset);
        if let Some(queue) = Notify::queue(bar, offset) {
            self.kick(queue);
        } else if within(&COMMON) {
            lock(&self.registers).write(offset - COMMON.start, data);
        } else if within(&DEVICE) {
            lock(&self.registers).function.write_config(offset - DEVICE.start, data);
        } else if within(&TABLE) {
            lock(&self.msix).write_table(offset - TABLE.start, data);
        }
        Effect::None
    }

    fn moved(&self, bar: u8, decoded: Option<Range<u64>>) {
        let Some((space, offset)) = self.notify.doorbells(bar) else {
            return;
        };
        let mut rung = lock(&self.rung);
        if let Some(before) = rung.take() {
            for (kick, at) in self.kicks.iter().zip((before..).step_by(layout::NOTIFY_STEP)) {
                self.doorbells.disconnect(space, at, kick);
            }
        }
        let Some(now) = decoded.map(|range| range.start + offset) else {
            return;
        };
        for (index, (kick, at)) in self.kicks.iter().zip((now..).step_by(layout::NOTIFY_STEP)).enumerate() {
            if let Err(error) = self.doorbells.connect(space, at, kick) {
                // Kicks then come as writes, which work as well.
                log::debug!("the doorbell of queue {index} at {at:#x} is slow: {error}");
                for (kick, at) in self.kicks.iter().take(index).zip((now..).step_by(layout::NOTIFY_STEP)) {
                    self.doorbells.disconnect(space, at, kick);
                }
                return;
            }
        }
        *rung = Some(now);
    }
}

#[cfg(test)]
mod tests;
