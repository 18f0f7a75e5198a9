//! Everything that differs between x86_64 and aarch64, behind the trait [`Arch`].
//!
//! `cfg(target_arch)` stands in this file and nowhere else in the workspace. Modules that only compute bytes (kernel
//! images, ACPI tables, the device tree) are compiled on both architectures, so that either machine can test and
//! fuzz both.
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::ops::Range;
use vm_memory::GuestMemoryMmap;

pub mod acpi;
pub mod fdt;
pub mod kernel;
pub mod platform;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::X86_64 as Host;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::Aarch64 as Host;

use kernel::BootProtocol;
use platform::{Messages, Part, VirtioSlots};

/// What the boot loader leaves for the guest, beside the kernel itself.
#[derive(Debug, Clone)]
pub struct Description<'a> {
    /// How the kernel wants to be entered.
    pub protocol: &'a BootProtocol,
    /// The kernel command line, without a trailing NUL; at most [`Arch::MAX_CMDLINE`] bytes.
    pub cmdline: &'a str,
    /// Guest-physical bytes that hold the initial RAM file system.
    pub initrd: Option<Range<u64>>,
    /// Guest RAM, sorted, as [`Arch::memory_ranges`] gave it.
    pub ram: &'a [Range<u64>],
    /// The devices that the board plugged.
    pub parts: &'a [Part],
    /// Seed for the guest's random number generator.
    pub rng_seed: [u8; 64],
}

/// All that an architecture owes the VMM.
pub trait Arch {
    /// As in `uname -m`.
    const NAME: &'static str;
    /// The devices that every machine of this architecture has, and where.
    const PLATFORM: &'static [Part];
    /// Where virtio-mmio devices go.
    const VIRTIO_SLOTS: VirtioSlots;
    /// What makes a PCI bus of which the guest is told; only machines with PCI functions have it.
    const PCI: &'static [Part];
    /// How messages of PCI functions become interrupts.
    const MESSAGES: Messages;
    /// Kernel arguments where the config gives none.
    const DEFAULT_CMDLINE: &'static str;
    /// Has a kernel talk through the serial port until it has another console.
    const EARLY_CONSOLE: &'static str;
    /// Bytes of kernel command line that a guest kernel accepts, without the NUL.
    const MAX_CMDLINE: usize;
    /// The in-kernel interrupt controller; lives as long as the VM.
    type Irqchip;
    /// Where the boot CPU starts and with what in its registers.
    type Entry;

    /// Guest-physical ranges that hold `bytes` of RAM, sorted, split around the MMIO gap.
    fn memory_ranges(bytes: u64) -> Vec<Range<u64>>;
    /// Where an initrd of `size` bytes goes, page-aligned, in RAM and clear of `kernel`.
    fn initrd_address(ram: &[Range<u64>], kernel: &Range<u64>, size: u64) -> Option<u64>;
    /// Creates the interrupt controller and `count` vCPUs, in the order that this architecture wants. PCI functions will
    /// send `messages` different messages at most.
    fn create_cpus(kvm: &Kvm, vm: &VmFd, count: u32, messages: u32) -> Result<(Self::Irqchip, Vec<VcpuFd>), ArchError>;
    /// Writes the hardware description and the boot parameters into guest memory.
    fn describe(
        memory: &GuestMemoryMmap,
        irqchip: &Self::Irqchip,
        cpus: &[VcpuFd],
        description: &Description<'_>,
    ) -> Result<Self::Entry, ArchError>;
    /// Tells the guest, when it runs again, that vCPU `cpu` was stopped on purpose, so that its watchdogs keep quiet. Called
    /// on the vCPU's thread, out of the guest.
    fn paused(_cpu: &VcpuFd) {}
    /// Puts vCPU `index` of `count` into its initial state; `cpus[0]` starts at the entry, the others wait.
    fn set_up_cpu(kvm: &Kvm, cpu: &VcpuFd, index: u32, count: u32, entry: &Self::Entry) -> Result<(), ArchError>;
}

/// Why the machine could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// A KVM call failed.
    #[error("KVM refused to {wish}; `coracle doctor` shows what this KVM can do")]
    Kvm {
        /// What was asked, as "create the interrupt controller".
        wish: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// A table or the boot parameters do not fit into guest memory.
    #[error("cannot write {what} at guest address {at:#x}; give the guest more memory")]
    Memory {
        /// What was being written.
        what: &'static str,
        /// Where.
        at: u64,
        /// The memory's answer.
        source: vm_memory::GuestMemoryError,
    },
    /// The kernel image's boot protocol belongs to another architecture.
    #[error("a kernel that boots by {protocol} cannot run on {arch}; use a kernel built for {arch}")]
    Protocol {
        /// The protocol of the image.
        protocol: &'static str,
        /// This architecture.
        arch: &'static str,
    },
    /// The device tree cannot tell of this machine.
    #[error("cannot describe the machine to the guest")]
    DeviceTree(#[from] fdt::FdtError),
    /// A value that this architecture cannot express.
    #[error("{0}")]
    Limit(String),
}
