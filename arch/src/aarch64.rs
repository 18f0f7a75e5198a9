//! aarch64: in-kernel GIC, generic timer, PSCI, and a device tree that tells of them.
//!
//! Owns the order in which KVM wants interrupt controller and vCPUs. Runs on the thread that builds the VM, except
//! [`Arch::set_up_cpu`], which may run on the vCPU's. Never keeps guest memory.
use crate::fdt::{self, layout};
use crate::kernel::BootProtocol;
use crate::platform::{Messages, Part, VirtioSlots};
use crate::{Arch, ArchError, Description};
use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

mod cpu;
mod gic;
#[cfg(test)]
mod tests;

/// The 64-bit Arm architecture.
#[derive(Debug)]
pub struct Aarch64;

/// The in-kernel interrupt controller.
#[derive(Debug)]
pub struct Irqchip {
    /// The handle to its registers.
    pub device: DeviceFd,
    /// Its version and windows.
    pub gic: layout::Gic,
    /// With what [`Arch::create_cpus`] initialised the vCPUs.
    target: kvm_vcpu_init,
}

/// Where the boot CPU starts.
#[derive(Debug, Clone)]
pub struct Entry {
    kernel: u64,
    fdt: u64,
    target: kvm_vcpu_init,
}

impl Arch for Aarch64 {
    const NAME: &'static str = "aarch64";
    const PLATFORM: &'static [Part] = layout::PLATFORM;
    const VIRTIO_SLOTS: VirtioSlots = layout::VIRTIO_SLOTS;
    const PCI: &'static [Part] = layout::PCI;
    const MESSAGES: Messages = layout::MESSAGES;
    /// Two thirds of a stock kernel's way to user space are self-tests of its RSA code, without assembly on this
    /// architecture.
    const DEFAULT_CMDLINE: &'static str = "console=ttyS0 panic=-1 quiet cryptomgr.notests";
    /// `stdout-path` says where.
    const EARLY_CONSOLE: &'static str = "earlycon";
    /// `COMMAND_LINE_SIZE` less the NUL.
    const MAX_CMDLINE: usize = 2047;
    type Irqchip = Irqchip;
    type Entry = Entry;

    fn memory_ranges(bytes: u64) -> Vec<Range<u64>> {
        layout::memory_ranges(bytes)
    }

    fn initrd_address(ram: &[Range<u64>], kernel: &Range<u64>, size: u64) -> Option<u64> {
        layout::initrd_address(ram, kernel.end, size)
    }

    /// The GIC's device first, for it decides how many vCPUs there may be; its registers last, for they depend on them.
    fn create_cpus(kvm: &Kvm, vm: &VmFd, count: u32, messages: u32) -> Result<(Irqchip, Vec<VcpuFd>), ArchError> {
        let (device, gic) = gic::create(vm, count)?;
        let target = cpu::target(kvm, vm)?;
        let cpus = cpu::create(vm, count, &target)?;
        gic::start(&device, &gic, messages)?;
        Ok((Irqchip { device, gic, target }, cpus))
    }

    fn describe(
        memory: &GuestMemoryMmap,
        irqchip: &Irqchip,
        cpus: &[VcpuFd],
        description: &Description<'_>,
    ) -> Result<Entry, ArchError> {
        let kernel = match description.protocol {
            BootProtocol::Arm64 { entry } => *entry,
            BootProtocol::Linux64 { .. } => return Err(foreign("the x86 64-bit boot protocol")),
            BootProtocol::Pvh { .. } => return Err(foreign("PVH")),
        };
        let at = layout::fdt_address(description.ram).ok_or_else(|| {
            ArchError::Limit("RAM has no room for the device tree; give the guest more memory".into())
        })?;
        let tree = fdt::build(&fdt::Machine {
            cpus: &cpus.iter().map(cpu::mpidr).collect::<Result<Vec<_>, _>>()?,
            gic: &irqchip.gic,
            ram: description.ram,
            parts: description.parts,
            cmdline: description.cmdline,
            initrd: description.initrd.clone(),
            seed: description.rng_seed,
        })?;
        memory
            .write_slice(&tree, GuestAddress(at))
            .map_err(|source| ArchError::Memory {
                what: "the device tree",
                at,
                source,
            })?;
        Ok(Entry {
            kernel,
            fdt: at,
            target: irqchip.target,
        })
    }

    fn set_up_cpu(_: &Kvm, cpu: &VcpuFd, index: u32, _: u32, entry: &Entry) -> Result<(), ArchError> {
        cpu::init(cpu, index, &entry.target)?;
        if index == 0 {
            cpu::enter(cpu, entry.kernel, entry.fdt)
        } else {
            Ok(())
        }
    }
}

fn foreign(protocol: &'static str) -> ArchError {
    ArchError::Protocol {
        protocol,
        arch: Aarch64::NAME,
    }
}
