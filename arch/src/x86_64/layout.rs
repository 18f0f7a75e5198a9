//! Where things are in the guest-physical address space of x86_64.
//!
//! ```text
//! 0x0_0000  null page, GDT, boot stack, page tables     (all of the first 640 KiB is the guest's after it has started)
//! 0x0_6000  PVH start_info, memory map, module list
//! 0x0_7000  zero page (struct boot_params)
//! 0x0_8000  setup_data with the random seed
//! 0x2_0000  kernel command line
//! 0xe_0000  ACPI tables
//! 0xf_fff0  reset vector
//! 0x10_0000 kernel; above it, initrd
//! 3 GiB     MMIO: devices, PCI from 0xe000_0000, I/O APIC, local APICs, KVM's own pages
//! 4 GiB     the rest of RAM
//! ```
use std::ops::Range;

pub(super) const GDT: u64 = 0x500;
pub(super) const PVH: Range<u64> = 0x6000..0x7000;
pub(super) const ZERO_PAGE: u64 = 0x7000;
pub(super) const SETUP_DATA: u64 = 0x8000;
/// Grows down from here.
pub(super) const BOOT_STACK: u64 = 0x9000;
/// PML4, then PDPT, then [`MAPPED_GIB`] page directories.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// Gibibytes that are mapped one to one when the kernel starts in 64-bit mode.
pub(super) const MAPPED_GIB: u64 = 4;
pub(super) const CMDLINE: u64 = 0x2_0000;
/// End of the RAM below the hole for adapters and firmware that every PC has.
pub(super) const LOW_RAM_END: u64 = 0xa_0000;
pub(super) const ACPI: Range<u64> = 0xe_0000..0x10_0000;
/// Where a PC's firmware starts after a reset. A Linux that knows only hardware-reduced ACPI, and no EFI, restarts a machine
/// by jumping here in real mode, unless its command line says otherwise.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;
pub(super) const HIGH_RAM: u64 = 0x10_0000;
/// Addresses without RAM, for devices.
pub(super) const MMIO_GAP: Range<u64> = 0xc000_0000..0x1_0000_0000;
/// Where an initrd ends at the latest: what every Linux since 2.6 can reach, whatever the protocol.
pub(super) const INITRD_END: u64 = 0x8000_0000;
/// Memory that PCI functions may decode.
pub(super) const PCI_MEMORY: Range<u64> = 0xe000_0000..0xf000_0000;
/// Config spaces of PCI's bus 0.
pub(super) const PCI_CONFIG: u64 = 0xf000_0000;
/// Ports that PCI functions may decode: all above those that a PC's own devices have.
pub(super) const PCI_IO: Range<u64> = 0x1000..0x1_0000;
/// Registers of the Generic Event Device.
pub(super) const GED: u64 = 0xfe00_0000;
/// The panic notifier.
pub(super) const PVPANIC: u64 = 0xfe00_1000;
/// The first virtio-mmio device; one page each.
pub(super) const VIRTIO_MMIO: u64 = 0xfe10_0000;
pub(super) const IO_APIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
/// KVM on Intel wants a page for an identity map and three for a task state, which the guest must leave alone.
pub(super) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
pub(super) const KVM_TSS: usize = 0xfffb_d000;
