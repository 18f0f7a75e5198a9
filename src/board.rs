//! The only giver of addresses and interrupts: plugs devices into the buses, then freezes the map.
use crate::{
    agent_port::{AgentPort, OnReport},
    config::spec::VirtioTransport,
    console::Console,
    pci::{PciBus, PciError},
    vcpu::Buses,
    wake::Wake,
};
use coracle_arch::{
    Arch, Host,
    platform::{Part, PartKind, Space},
};
use coracle_devices::{
    acpi_power::AcpiPower,
    bus::{BusDevice, BusError},
    ged::Ged,
    gpio::Gpio,
    i8042::I8042,
    irq::IrqLine,
    pvpanic::Pvpanic,
    rtc::Rtc,
    serial::Serial,
    virtio::{
        Transport, VirtioDevice,
        function::Function,
        io_thread::IoThread,
        mmio::{self, MmioTransport},
    },
};
use kvm_ioctls::{IoEventAddress, VmFd};
use std::{
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use vm_memory::GuestMemoryMmap;

/// The line of the GPIO controller that is the power button.
const POWER_BUTTON_LINE: u8 = 3;

/// Why a device could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// Two devices claim the same addresses.
    #[error("the machine's address map is inconsistent")]
    Bus(#[from] BusError),
    /// KVM refused an interrupt line.
    #[error("KVM refused interrupt {gsi} for {name}; `coracle doctor` shows what this host offers")]
    Interrupt {
        /// The device.
        name: String,
        /// The line.
        gsi: u32,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// More devices than there are places.
    #[error("{0} finds no place on the board, which has {1} for virtio devices; use fewer devices")]
    Full(String, u32),
    /// KVM refused to take the kicks of a device.
    #[error("KVM refused to watch the registers of {name}; use fewer devices or queues")]
    Kick {
        /// The device.
        name: String,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// The device finds no place on the PCI bus.
    #[error("cannot plug {name} into the PCI bus")]
    Pci {
        /// The device.
        name: String,
        /// Why not.
        source: PciError,
    },
    /// The system refused a descriptor.
    #[error("cannot create an event for a device; raise the limit on open files")]
    Event(#[from] io::Error),
}

/// The button that the host can press.
pub(crate) enum PowerButton {
    /// By ACPI's Generic Event Device.
    Ged(Arc<Ged>),
    /// By a GPIO line.
    Gpio(Arc<Gpio>),
}

impl PowerButton {
    /// Presses and releases it.
    pub(crate) fn press(&self) {
        match self {
            Self::Ged(ged) => ged.press_power_button(),
            Self::Gpio(gpio) => {
                gpio.press(POWER_BUTTON_LINE);
                gpio.release(POWER_BUTTON_LINE);
            }
        }
    }
}

/// Seconds since 1970.
fn wall_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A board that is being filled.
pub(crate) struct Board<'a> {
    vm: &'a VmFd,
    memory: &'a GuestMemoryMmap,
    pci: PciBus,
    transport: VirtioTransport,
    buses: Buses,
    parts: Vec<Part>,
    power_button: Option<PowerButton>,
    virtio: Vec<Arc<dyn Transport>>,
    io: Option<Arc<IoThread>>,
}

/// A finished board.
pub(crate) struct Plugged {
    /// What guest accesses reach.
    pub(crate) buses: Arc<Buses>,
    /// What stands on the buses.
    pub(crate) parts: Vec<Part>,
    /// The button that the host can press.
    pub(crate) power_button: Option<PowerButton>,
    /// The devices that have queues.
    pub(crate) virtio: Vec<Arc<dyn Transport>>,
}

impl<'a> Board<'a> {
    /// An empty board, whose interrupts go to `vm` and whose devices see `memory`. The machine was made for `messages`.
    pub(crate) fn new(
        vm: &'a Arc<VmFd>,
        memory: &'a GuestMemoryMmap,
        transport: VirtioTransport,
        messages: u32,
    ) -> Self {
        Self {
            vm,
            memory,
            pci: PciBus::new(vm, messages),
            transport,
            buses: Buses::default(),
            parts: Vec::new(),
            power_button: None,
            virtio: Vec::new(),
            io: None,
        }
    }

    /// Plugs the devices that every machine of this architecture has. The agent port is one of them only if somebody
    /// listens.
    pub(crate) fn platform(&mut self, console: &Console, on_report: Option<OnReport>) -> Result<(), BoardError> {
        let mut on_report = on_report;
        for part in Host::PLATFORM {
            match part.kind {
                PartKind::Console => {
                    let irq = self.line("the console", part)?;
                    self.plug("the console", part, console.plug(irq)?)?;
                }
                PartKind::AgentPort => {
                    let Some(on_report) = on_report.take() else { continue };
                    let irq = self.line("the agent port", part)?;
                    let room = Wake::new()?.event()?;
                    let port = Arc::new(Serial::new(irq, Arc::new(AgentPort::new(on_report)), room));
                    self.plug("the agent port", part, port)?;
                }
                PartKind::Rtc => self.plug("the clock", part, Arc::new(Rtc::new(wall_clock)))?,
                PartKind::Ged => {
                    let ged = Arc::new(Ged::new(self.line("the power button", part)?));
                    self.power_button = Some(PowerButton::Ged(ged.clone()));
                    self.plug("the power button", part, ged)?;
                }
                PartKind::Gpio => {
                    let gpio = Arc::new(Gpio::new(self.line("the power button", part)?));
                    self.power_button = Some(PowerButton::Gpio(gpio.clone()));
                    self.plug("the power button", part, gpio)?;
                }
                PartKind::AcpiPower => self.plug("the power registers", part, Arc::new(AcpiPower))?,
                PartKind::PciPorts => self.plug("the PCI ports", part, self.pci.ports())?,
                PartKind::PanicNotifier => self.plug("the panic notifier", part, Arc::new(Pvpanic))?,
                PartKind::I8042 => self.plug("the reset line", part, Arc::new(I8042::default()))?,
                // No machine has them from the start.
                PartKind::VirtioMmio
                | PartKind::PciConfig
                | PartKind::PciMemory
                | PartKind::PciIo
                | PartKind::MessageFrame => {}
            }
        }
        Ok(())
    }

    /// The thread that devices share whose work never blocks.
    pub(crate) fn io_thread(&mut self) -> Result<Arc<IoThread>, BoardError> {
        if let Some(thread) = &self.io {
            return Ok(thread.clone());
        }
        let thread = Arc::new(IoThread::spawn("io")?);
        self.io = Some(thread.clone());
        Ok(thread)
    }

    /// Plugs a virtio device, whose workers run on `threads` in turn.
    pub(crate) fn virtio<D: VirtioDevice>(
        &mut self,
        name: &str,
        device: D,
        threads: Vec<Arc<IoThread>>,
    ) -> Result<(), BoardError> {
        match self.transport {
            VirtioTransport::Mmio => self.virtio_mmio(name, device, threads),
            VirtioTransport::Pci => self.virtio_pci(name, device, threads),
        }
    }

    fn virtio_pci<D: VirtioDevice>(
        &mut self,
        name: &str,
        device: D,
        threads: Vec<Arc<IoThread>>,
    ) -> Result<(), BoardError> {
        if self.virtio.is_empty() {
            // The guest is told of a bus when there is something on it.
            for part in Host::PCI {
                if let Some(device) = self.pci.device(part) {
                    self.plug("the PCI bus", part, device)?;
                }
            }
        }
        let memory = self.memory.clone();
        let make = |signals| Function::new(device, threads, memory, signals);
        let transport = self.pci.virtio(name, make).map_err(|source| BoardError::Pci {
            name: name.to_owned(),
            source,
        })?;
        self.virtio.push(transport);
        Ok(())
    }

    fn virtio_mmio<D: VirtioDevice>(
        &mut self,
        name: &str,
        device: D,
        threads: Vec<Arc<IoThread>>,
    ) -> Result<(), BoardError> {
        let slots = Host::VIRTIO_SLOTS;
        let index = u32::try_from(self.virtio.len()).unwrap_or(u32::MAX);
        let part = slots
            .part(index)
            .ok_or_else(|| BoardError::Full(name.to_owned(), slots.count))?;
        let transport = Arc::new(MmioTransport::new(name, self.line(name, &part)?, |signals| {
            Function::new(device, threads, self.memory.clone(), signals)
        })?);
        for (queue, kick) in (0_u32..).zip(transport.kicks()) {
            self.vm
                .register_ioevent(kick, &IoEventAddress::Mmio(part.base + mmio::NOTIFY), queue)
                .map_err(|source| BoardError::Kick {
                    name: name.to_owned(),
                    source,
                })?;
        }
        self.plug("a virtio device", &part, transport.clone())?;
        self.virtio.push(transport);
        Ok(())
    }

    /// A line that raises the part's interrupt, if it has one.
    fn line(&self, name: &str, part: &Part) -> Result<IrqLine, BoardError> {
        let line = IrqLine::new()?;
        if let Some(gsi) = part.gsi {
            self.vm
                .register_irqfd(line.event(), gsi)
                .map_err(|source| BoardError::Interrupt {
                    name: name.to_owned(),
                    gsi,
                    source,
                })?;
        }
        Ok(line)
    }

    fn plug(&mut self, name: &'static str, part: &Part, device: Arc<dyn BusDevice>) -> Result<(), BoardError> {
        let bus = match part.space {
            Space::Mmio => &mut self.buses.mmio,
            Space::Pio => &mut self.buses.pio,
        };
        bus.add(name, part.base..part.base + part.size, device)?;
        self.parts.push(*part);
        Ok(())
    }

    /// Fixes the map.
    pub(crate) fn freeze(self) -> Plugged {
        Plugged {
            buses: Arc::new(self.buses),
            parts: self.parts,
            power_button: self.power_button,
            virtio: self.virtio,
        }
    }
}
