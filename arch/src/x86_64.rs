//! The x86_64 half of [`Arch`]: a PC without firmware, described by hardware-reduced ACPI.
//!
//! Runs on the thread that builds the VM. There is no 8254, no 8259 that is used and no CMOS clock: kvm-clock, the TSC-deadline timer, the APICs and the devices of [`X86_64::PLATFORM`] are the machine.
use crate::{
    Arch, ArchError, Description, acpi,
    kernel::BootProtocol,
    platform::{Messages, Part, PartKind, Space, VirtioSlots},
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

mod cpuid;
mod cpus;
mod irq_lines;
#[cfg(test)]
mod kvm_tests;
mod layout;
mod memory_map;
mod pvh;
mod registers;
#[cfg(test)]
mod tests;
mod zero_page;

/// x86_64.
#[derive(Debug)]
pub enum X86_64 {}

/// The in-kernel local APICs and I/O APIC; KVM owns them, and they end with the VM.
#[derive(Debug)]
pub struct Irqchip(());

/// How the boot CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode, with the zero page in RSI.
    Linux64 {
        /// Guest-physical address.
        entry: u64,
    },
    /// In 32-bit mode without paging, with the start info in EBX.
    Pvh {
        /// Guest-physical address.
        entry: u32,
    },
}

impl Arch for X86_64 {
    const NAME: &'static str = "x86_64";
    const PLATFORM: &'static [Part] = &[
        Part {
            kind: PartKind::Console,
            space: Space::Pio,
            base: 0x3f8,
            size: 8,
            gsi: Some(4),
        },
        Part {
            kind: PartKind::AgentPort,
            space: Space::Pio,
            base: 0x2f8,
            size: 8,
            gsi: Some(3),
        },
        Part {
            kind: PartKind::I8042,
            space: Space::Pio,
            base: 0x60,
            size: 5,
            gsi: None,
        },
        Part {
            kind: PartKind::AcpiPower,
            space: Space::Pio,
            base: 0x600,
            size: 4,
            gsi: None,
        },
        Part {
            kind: PartKind::Ged,
            space: Space::Mmio,
            base: layout::GED,
            size: 0x1000,
            gsi: Some(5),
        },
        Part {
            kind: PartKind::PanicNotifier,
            space: Space::Mmio,
            base: layout::PVPANIC,
            size: 4,
            gsi: None,
        },
        Part {
            kind: PartKind::PciPorts,
            space: Space::Pio,
            base: 0xcf8,
            size: 8,
            gsi: None,
        },
    ];
    /// Pins of the I/O APIC: first those beyond the 16 of a PC, then those of the 16 that nothing else uses.
    const VIRTIO_SLOTS: VirtioSlots = VirtioSlots {
        base: layout::VIRTIO_MMIO,
        count: 64,
        gsis: &[16, 17, 18, 19, 20, 21, 22, 23, 6, 7, 9, 10, 11, 12, 14, 15],
    };
    const PCI: &'static [Part] = &[
        Part {
            kind: PartKind::PciConfig,
            space: Space::Mmio,
            base: layout::PCI_CONFIG,
            size: 1 << 20,
            gsi: None,
        },
        Part {
            kind: PartKind::PciMemory,
            space: Space::Mmio,
            base: layout::PCI_MEMORY.start,
            size: layout::PCI_MEMORY.end - layout::PCI_MEMORY.start,
            gsi: None,
        },
        Part {
            kind: PartKind::PciIo,
            space: Space::Pio,
            base: layout::PCI_IO.start,
            size: layout::PCI_IO.end - layout::PCI_IO.start,
            gsi: None,
        },
    ];
    const MESSAGES: Messages = Messages::Routed {
        first: irq_lines::COUNT,
        lines: &irq_lines::ROUTES,
    };
    /// Spares the guest what is pointless on such a machine: testing its crypto algorithms at every start (two thirds of
    /// Debian's whole boot), PCI's first mechanism and two more UARTs than the board has.
    /// Resets by the keyboard controller: after a panic before user space the kernel does not reach the ACPI register.
    const DEFAULT_CMDLINE: &'static str =
        "console=ttyS0 reboot=k panic=-1 quiet cryptomgr.notests pci=noearly 8250.nr_uarts=2";
    const EARLY_CONSOLE: &'static str = "earlycon=uart8250,io,0x3f8";
    /// `COMMAND_LINE_SIZE` is 2048, with the NUL.
    const MAX_CMDLINE: usize = 2047;
    type Irqchip = Irqchip;
    type Entry = Entry;

    fn memory_ranges(bytes: u64) -> Vec<Range<u64>> {
        memory_map::ranges(bytes)
    }

    fn initrd_address(ram: &[Range<u64>], kernel: &Range<u64>, size: u64) -> Option<u64> {
        memory_map::initrd_address(ram, kernel, size)
    }

    fn create_cpus(kvm: &Kvm, vm: &VmFd, count: u32, _messages: u32) -> Result<(Irqchip, Vec<VcpuFd>), ArchError> {
        cpus::create(kvm, vm, count)
    }

    fn describe(
        memory: &GuestMemoryMmap,
        _irqchip: &Irqchip,
        cpus: &[VcpuFd],
        description: &Description<'_>,
    ) -> Result<Entry, ArchError> {
        let entry = match *description.protocol {
            BootProtocol::Linux64 { entry, .. } => Entry::Linux64 { entry },
            BootProtocol::Pvh { entry } => Entry::Pvh { entry },
            BootProtocol::Arm64 { .. } => {
                return Err(ArchError::Protocol {
                    protocol: "the arm64 Linux protocol",
                    arch: Self::NAME,
                });
            }
        };
        if description.cmdline.len() > Self::MAX_CMDLINE {
            let (len, most) = (description.cmdline.len(), Self::MAX_CMDLINE);
            return Err(ArchError::Limit(format!(
                "the kernel command line has {len} bytes, at most {most} fit: shorten it"
            )));
        }
        let write = |what, at, bytes: &[u8]| {
            memory
                .write_slice(bytes, GuestAddress(at))
                .map_err(|source| ArchError::Memory { what, at, source })
        };
        write(
            "the ACPI tables",
            layout::ACPI.start,
            &acpi_tables(cpus.len(), description.parts)?,
        )?;
        write(
            "the kernel command line",
            layout::CMDLINE,
            &[description.cmdline.as_bytes(), &[0]].concat(),
        )?;
        write("the reset vector", layout::RESET_VECTOR, &RESET)?;
        let memory_map = memory_map::entries(description.ram);
        match description.protocol {
            BootProtocol::Linux64 { setup_header, .. } => {
                let facts = zero_page::Facts {
                    setup_header: setup_header.as_deref(),
                    cmdline_len: description.cmdline.len(),
                    initrd: description.initrd.as_ref(),
                    memory_map: &memory_map,
                    rsdp: layout::ACPI.start,
                };
                write("the zero page", layout::ZERO_PAGE, &zero_page::build(&facts))?;
                write(
                    "the random seed",
                    layout::SETUP_DATA,
                    &zero_page::rng_seed(&description.rng_seed),
                )?;
            }
            BootProtocol::Pvh { .. } | BootProtocol::Arm64 { .. } => {
                let info = pvh::build(description.initrd.as_ref(), &memory_map, layout::ACPI.start);
                write("the PVH start info", layout::PVH.start, &info)?;
            }
        }
        registers::write_tables(memory, &entry)?;
        Ok(entry)
    }

    fn paused(cpu: &VcpuFd) {
        // Refused for a guest that has not turned kvm-clock on; that one has no watchdog to quiet either.
        if let Err(error) = cpu.kvmclock_ctrl() {
            log::debug!("kvm-clock does not know of the pause: {error}");
        }
    }

    fn set_up_cpu(kvm: &Kvm, cpu: &VcpuFd, index: u32, count: u32, entry: &Entry) -> Result<(), ArchError> {
        cpus::set_up(kvm, cpu, cpuid::Place { index, count }, entry)
    }
}

/// Real-mode code: mov dx, 0x602 (the reset register of ACPI); mov al, 1; out dx, al; hlt; jmp back to hlt.
const RESET: [u8; 9] = [0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd];

fn acpi_tables(cpus: usize, parts: &[Part]) -> Result<Vec<u8>, ArchError> {
    let machine = acpi::Machine {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        parts,
        local_apic: layout::LOCAL_APIC,
        io_apic: layout::IO_APIC,
    };
    let bytes = acpi::tables(&machine, layout::ACPI.start).bytes;
    let room = layout::RESET_VECTOR - layout::ACPI.start;
    if bytes.len() as u64 > room {
        return Err(ArchError::Limit(format!(
            "the ACPI tables of {cpus} vCPUs need more than {room} bytes: use fewer"
        )));
    }
    Ok(bytes)
}
