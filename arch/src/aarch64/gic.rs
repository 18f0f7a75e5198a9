//! The in-kernel interrupt controller: GICv3, or GICv2 where the host has no better.
//!
//! KVM's default routing makes `KVM_IRQFD`'s GSI n the shared interrupt n, so no routing table is set.
use crate::ArchError;
use crate::fdt::layout::{Gic, MAX_CPUS, interrupts};
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use std::ptr::from_ref;

const GICV2_MAX_CPUS: u32 = 8;

/// Creates the device for `count` vCPUs, which do not exist yet.
pub(super) fn create(vm: &VmFd, count: u32) -> Result<(DeviceFd, Gic), ArchError> {
    if count > MAX_CPUS {
        return Err(ArchError::Limit(format!(
            "{count} vCPUs do not fit; aarch64 has room for {MAX_CPUS}"
        )));
    }
    match device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
        Ok(device) => Ok((device, Gic::v3(count))),
        Err(error) if error.errno() == ENODEV => create_v2(vm, count),
        Err(source) => Err(ArchError::Kvm {
            wish: "create a GICv3",
            source,
        }),
    }
}

/// KVM's answer where it has no such device.
const ENODEV: i32 = 19;

fn create_v2(vm: &VmFd, count: u32) -> Result<(DeviceFd, Gic), ArchError> {
    if count > GICV2_MAX_CPUS {
        return Err(ArchError::Limit(format!(
            "{count} vCPUs need a GICv3, which this host lacks; use at most {GICV2_MAX_CPUS}"
        )));
    }
    let device = device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2).map_err(|source| ArchError::Kvm {
        wish: "create a GICv3 or a GICv2",
        source,
    })?;
    Ok((device, Gic::v2()))
}

fn device(vm: &VmFd, type_: u32) -> Result<DeviceFd, kvm_ioctls::Error> {
    vm.create_device(&mut kvm_create_device { type_, fd: 0, flags: 0 })
}

/// Places and starts the device, after the last vCPU was created, with room for so many messages.
pub(super) fn start(device: &DeviceFd, gic: &Gic, messages: u32) -> Result<(), ArchError> {
    let windows = match gic {
        Gic::V2 {
            distributor,
            cpu_interface,
        } => [
            (KVM_VGIC_V2_ADDR_TYPE_DIST, distributor.start),
            (KVM_VGIC_V2_ADDR_TYPE_CPU, cpu_interface.start),
        ],
        Gic::V3 {
            distributor,
            redistributors,
        } => [
            (KVM_VGIC_V3_ADDR_TYPE_DIST, distributor.start),
            (KVM_VGIC_V3_ADDR_TYPE_REDIST, redistributors.start),
        ],
    };
    for (window, address) in windows {
        set(
            device,
            KVM_DEV_ARM_VGIC_GRP_ADDR,
            window,
            &address,
            "place the interrupt controller",
        )?;
    }
    set(
        device,
        KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
        0,
        &interrupts(messages),
        "size the interrupt controller",
    )?;
    set(
        device,
        KVM_DEV_ARM_VGIC_GRP_CTRL,
        KVM_DEV_ARM_VGIC_CTRL_INIT,
        &0_u64,
        "start the interrupt controller",
    )
}

fn set<T>(device: &DeviceFd, group: u32, attr: u32, value: &T, wish: &'static str) -> Result<(), ArchError> {
    let attr = kvm_device_attr {
        flags: 0,
        group,
        attr: attr.into(),
        addr: from_ref(value) as u64,
    };
    device
        .set_device_attr(&attr)
        .map_err(|source| ArchError::Kvm { wish, source })
}
