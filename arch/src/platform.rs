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
    /// The configuration ports of a PCI bus that holds a host bridge alone.
    PciPorts,
    /// A pvpanic register, by which the guest's kernel tells of its panic.
    PanicNotifier,
    /// The reset line of an i8042 keyboard controller, and nothing else of it.
    I8042,
}
