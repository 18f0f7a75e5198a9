//! What stands on the board: device kinds, windows and interrupt lines, as data.

/// One device that the board plugs and the hardware description names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Which address space its window is in.
    pub space: Space,
    /// First address of its window.
    pub base: u64,
    /// Bytes in its window.
    pub size: u64,
    /// Its interrupt, as `KVM_IRQFD` counts: a GSI on x86_64, an SPI number (from 0) on aarch64.
    pub gsi: Option<u32>,
}

/// An address space of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Memory-mapped.
    Mmio,
    /// x86 ports.
    Pio,
}

/// Kinds of platform devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartKind {
    /// The 16550 that is the guest's console, `ttyS0`.
    Console,
    /// A second 16550, `ttyS1`, over which PID 1 of the guest reports to the VMM. Plugged only when asked for.
    AgentPort,
    /// PL031 real-time clock.
    Rtc,
    /// ACPI Generic Event Device: the power button on x86_64.
    Ged,
    /// PL061 GPIO controller: the power button on aarch64.
    Gpio,
    /// ACPI sleep-control, sleep-status and reset registers (hardware-reduced ACPI).
    AcpiPower,
    /// The configuration ports of a PCI bus, which holds a host bridge at least.
    PciPorts,
    /// The config spaces of the PCI bus as memory (ECAM). Plugged, as the following three, only with PCI functions.
    PciConfig,
    /// Memory that PCI functions may decode.
    PciMemory,
    /// Ports that PCI functions may decode.
    PciIo,
    /// A GICv2m frame, where messages of PCI functions become shared interrupts.
    MessageFrame,
    /// A pvpanic register, by which the guest's kernel tells of its panic.
    PanicNotifier,
    /// The reset line of an i8042 keyboard controller, and nothing else of it.
    I8042,
    /// A virtio device on the MMIO transport.
    VirtioMmio,
}

/// Where the board puts virtio-mmio devices: one page each, and interrupts in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioSlots {
    /// First address.
    pub base: u64,
    /// Most devices.
    pub count: u32,
    /// Interrupt lines. Devices beyond them share, which edges allow: KVM keeps one that comes while another is served.
    pub gsis: &'static [u32],
}

impl VirtioSlots {
    const PAGE: u64 = 0x1000;

    /// The place of device `index`, if there is one.
    pub fn part(&self, index: u32) -> Option<Part> {
        let line = index.checked_rem(u32::try_from(self.gsis.len()).ok()?)?;
        (index < self.count).then_some(Part {
            kind: PartKind::VirtioMmio,
            space: Space::Mmio,
            base: self.base + Self::PAGE * u64::from(index),
            size: Self::PAGE,
            gsi: Some(*self.gsis.get(line as usize)?),
        })
    }
}

/// Identifiers of the Arm interrupts that belong to each CPU come before those of shared ones, which `KVM_IRQFD` counts
/// from 0.
pub const PRIVATE_INTERRUPTS: u32 = 32;

/// How the messages of PCI functions reach a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// KVM sends a message itself, by a route of its own on a GSI from `first` on. Setting routes replaces all that there
    /// are, so those of the interrupt lines come along.
    Routed {
        /// The first GSI that is no line's.
        first: u32,
        /// The lines' routes.
        lines: &'static [Line],
    },
    /// Writing the number of a shared interrupt to a register raises it.
    Frame {
        /// Of the register.
        register: u64,
        /// The first such interrupt, as `KVM_IRQFD` counts.
        first: u32,
        /// How many there can be.
        most: u32,
    },
}

/// KVM's route of an interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The line.
    pub gsi: u32,
    /// KVM's number of the interrupt controller.
    pub chip: u32,
    /// Its input.
    pub pin: u32,
}
