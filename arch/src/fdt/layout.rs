//! The physical address map of an aarch64 machine, as constants and pure functions.
//!
//! ```text
//! 0x1000_0000  memory that PCI functions may decode, 256 MiB
//! 0x2000_0000  config spaces of PCI's bus 0, 1 MiB
//! 0x3bff_0000  lowest redistributor of 512 vCPUs; they end at the distributor and grow downward
//! 0x3fff_0000  GICv3 distributor, 64 KiB (GICv2: distributor 4 KiB, CPU interface at 0x3fff_2000)
//! 0x4000_0000  devices, one page each: frame for messages, platform, from 0x4001_0000 on those that the board hands out
//! 0x8000_0000  RAM: kernel at its start; initrd, then the device tree below RAM's end or 32 GiB up, what is lower
//! ```
//!
//! Owns no state. Never looks at the host: what KVM grants is for `aarch64` to ask.
use crate::platform::{Messages, PRIVATE_INTERRUPTS, Part, PartKind, Space, VirtioSlots};
use std::{iter, ops::Range};

/// First byte of RAM. A kernel's `text_offset` counts from here; it is a multiple of 2 MiB.
pub const RAM_BASE: u64 = 0x8000_0000;
/// The device tree lies in a block of this size and alignment, which is also the most that Linux maps
/// (`Documentation/arch/arm64/booting.rst`, section 2).
pub const FDT_SPACE: u64 = 2 << 20;
/// Kernel and initrd must fit into one window of this size, aligned to 1 GiB (`booting.rst`, section 4).
const BOOT_WINDOW: u64 = 32 << 30;
/// Where and how big the window is in which the board may place further devices, one page each.
pub const DEVICES: Range<u64> = 0x4001_0000..RAM_BASE;
/// Interrupt identifiers in all, of which the first 32 belong to each CPU, on a machine without messages. Linux writes
/// dozens of distributor registers per 64 of them, each a VM exit, so there are no more than devices can use.
const INTERRUPTS: u32 = 64;
/// Most that KVM's interrupt controllers have.
const MOST_INTERRUPTS: u32 = 992;
/// Shared interrupts that are lines, counted from 0 as `KVM_IRQFD` does. Those for messages follow.
pub const SPIS: Range<u32> = 0..INTERRUPTS - PRIVATE_INTERRUPTS;
/// How messages become interrupts: by a GICv2m frame (Server Base System Architecture, appendix E), whose `MSI_SETSPI_NS`
/// is at 0x40.
pub const MESSAGES: Messages = Messages::Frame {
    register: MESSAGE_FRAME + 0x40,
    first: SPIS.end,
    most: MOST_INTERRUPTS - INTERRUPTS,
};
/// Most vCPUs for which there is room; KVM may allow fewer.
pub const MAX_CPUS: u32 = 512;

const GIC_BASE: u64 = 0x3fff_0000;
const GICV3_DISTRIBUTOR: u64 = 0x1_0000;
const GICV3_REDISTRIBUTOR: u64 = 0x2_0000;
const GICV2_CPU_INTERFACE_BASE: u64 = GIC_BASE + 0x2000;
const PAGE: u64 = 0x1000;
const MESSAGE_FRAME: u64 = 0x4000_0000;
/// A page size that every guest kernel's pages divide (4, 16 or 64 KiB).
const LARGEST_PAGE: u64 = 0x1_0000;

/// The devices that every machine has, in the order of their addresses.
pub const PLATFORM: &[Part] = &[
    part(PartKind::Rtc, 0x4000_1000, None),
    part(PartKind::Console, 0x4000_2000, Some(0)),
    part(PartKind::AgentPort, 0x4000_3000, Some(1)),
    part(PartKind::Gpio, 0x4000_4000, Some(2)),
];

/// The interrupts after the platform's.
pub const VIRTIO_SLOTS: VirtioSlots = VirtioSlots {
    base: DEVICES.start,
    count: 29,
    gsis: &[
        3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
    ],
};

/// What makes a PCI bus.
pub const PCI: &[Part] = &[
    Part {
        size: 256 << 20,
        ..part(PartKind::PciMemory, 0x1000_0000, None)
    },
    Part {
        size: 1 << 20,
        ..part(PartKind::PciConfig, 0x2000_0000, None)
    },
    part(PartKind::MessageFrame, MESSAGE_FRAME, None),
];

/// Interrupt identifiers of a controller that takes so many different messages beside its lines.
pub fn interrupts(messages: u32) -> u32 {
    INTERRUPTS
        .saturating_add(messages)
        .min(MOST_INTERRUPTS)
        .next_multiple_of(32)
}

const fn part(kind: PartKind, base: u64, gsi: Option<u32>) -> Part {
    Part {
        kind,
        space: Space::Mmio,
        base,
        size: PAGE,
        gsi,
    }
}

/// The interrupt controller and its windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gic {
    /// Arm GICv2 (IHI 0048): at most 8 CPUs.
    V2 {
        /// The distributor's registers.
        distributor: Range<u64>,
        /// The registers through which a CPU takes its interrupts.
        cpu_interface: Range<u64>,
    },
    /// Arm GICv3 (IHI 0069), with system registers as the CPU interface.
    V3 {
        /// The distributor's registers.
        distributor: Range<u64>,
        /// One redistributor of 128 KiB per CPU.
        redistributors: Range<u64>,
    },
}

impl Gic {
    /// Where a GICv2 is.
    pub const fn v2() -> Self {
        Self::V2 {
            distributor: GIC_BASE..GIC_BASE + 0x1000,
            cpu_interface: GICV2_CPU_INTERFACE_BASE..GICV2_CPU_INTERFACE_BASE + 0x2000,
        }
    }

    /// Where a GICv3 for `cpus` CPUs is; `cpus` is at most [`MAX_CPUS`].
    pub fn v3(cpus: u32) -> Self {
        let size = u64::from(cpus.min(MAX_CPUS)) * GICV3_REDISTRIBUTOR;
        Self::V3 {
            distributor: GIC_BASE..GIC_BASE + GICV3_DISTRIBUTOR,
            redistributors: GIC_BASE - size..GIC_BASE,
        }
    }
}

/// RAM of `bytes`, in one piece: nothing lies above [`RAM_BASE`] but RAM.
pub fn memory_ranges(bytes: u64) -> Vec<Range<u64>> {
    iter::once(RAM_BASE..RAM_BASE.saturating_add(bytes)).collect()
}

/// Where the device tree goes: the last block of RAM that the boot window holds. Linux hands out memory from the top
/// down, so the block's other bytes are used too, and it costs no page of its own. `None` when RAM has no such block.
pub fn fdt_address(ram: &[Range<u64>]) -> Option<u64> {
    let first = ram.first()?;
    let end = first.end.min(first.start.saturating_add(BOOT_WINDOW));
    let at = end.checked_sub(FDT_SPACE)? / FDT_SPACE * FDT_SPACE;
    (at >= first.start).then_some(at)
}

/// Where an initrd of `size` bytes goes: right below the device tree. `None` when it would reach into the kernel, which
/// ends at `kernel_end`.
pub fn initrd_address(ram: &[Range<u64>], kernel_end: u64, size: u64) -> Option<u64> {
    let at = fdt_address(ram)?.checked_sub(size)? / LARGEST_PAGE * LARGEST_PAGE;
    (at >= kernel_end.max(ram.first()?.start)).then_some(at)
}

#[cfg(test)]
mod tests;
