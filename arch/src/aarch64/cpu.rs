//! vCPUs: which features they have, and the state in which `Documentation/arch/arm64/booting.rst` wants them.
//!
//! The features are the host's own, with pointer authentication and without performance counters and SVE, whose state
//! is large and whose emulation makes the guest probe.
use crate::ArchError;
use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC,
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::mem::offset_of;

/// EL1 with its own stack pointer, all exceptions masked.
const PSTATE_BOOT: u64 = 0x3c5;
/// `MPIDR_EL1` in KVM's numbering: op0 3, op1 0, CRn 0, CRm 0, op2 5.
const MPIDR_EL1: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | 0xc005;

/// The CPU model that this host can run, and the features that all vCPUs get.
pub(super) fn target(kvm: &Kvm, vm: &VmFd) -> Result<kvm_vcpu_init, ArchError> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).map_err(|source| ArchError::Kvm {
        wish: "name the host's CPU model",
        source,
    })?;
    target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    // Linux wants both kinds or none.
    if kvm.check_extension(Cap::ArmPtrAuthAddress) && kvm.check_extension(Cap::ArmPtrAuthGeneric) {
        target.features[0] |= 1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << KVM_ARM_VCPU_PTRAUTH_GENERIC;
    }
    Ok(target)
}

/// Creates and initialises `count` vCPUs.
pub(super) fn create(vm: &VmFd, count: u32, target: &kvm_vcpu_init) -> Result<Vec<VcpuFd>, ArchError> {
    (0..count)
        .map(|index| {
            let cpu = vm.create_vcpu(index.into()).map_err(|source| ArchError::Kvm {
                wish: "create a vCPU",
                source,
            })?;
            init(&cpu, index, target)?;
            Ok(cpu)
        })
        .collect()
}

/// Puts a vCPU into its reset state; all but the first wait for the guest's PSCI call.
pub(super) fn init(cpu: &VcpuFd, index: u32, target: &kvm_vcpu_init) -> Result<(), ArchError> {
    let mut target = *target;
    if index > 0 {
        target.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    cpu.vcpu_init(&target).map_err(|source| ArchError::Kvm {
        wish: "initialise a vCPU",
        source,
    })
}

/// `MPIDR_EL1`, which KVM derives from the vCPU's number.
pub(super) fn mpidr(cpu: &VcpuFd) -> Result<u64, ArchError> {
    let mut value = [0; 8];
    cpu.get_one_reg(MPIDR_EL1, &mut value)
        .map_err(|source| ArchError::Kvm {
            wish: "tell a vCPU's affinity",
            source,
        })?;
    Ok(u64::from_le_bytes(value))
}

/// Lets an initialised vCPU begin at `kernel` with the device tree at `fdt`.
pub(super) fn enter(cpu: &VcpuFd, kernel: u64, fdt: u64) -> Result<(), ArchError> {
    set(cpu, offset_of!(user_pt_regs, pstate), PSTATE_BOOT)?;
    set(cpu, offset_of!(user_pt_regs, pc), kernel)?;
    set(cpu, offset_of!(user_pt_regs, regs), fdt)
}

/// Sets the core register at `offset` of KVM's register file, which counts in 32-bit words.
fn set(cpu: &VcpuFd, offset: usize, value: u64) -> Result<(), ArchError> {
    let register = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | (offset as u64 / 4);
    cpu.set_one_reg(register, &value.to_le_bytes())
        .map_err(|source| ArchError::Kvm {
            wish: "set a vCPU's registers",
            source,
        })?;
    Ok(())
}
