//! On a real KVM: these start vCPUs and small guests.
#![allow(unsafe_code, reason = "KVM maps guest memory by raw address")]
use super::*;
use crate::fdt::layout::{Gic, MAX_CPUS, PLATFORM};
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_GRP_DIST_REGS, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_SHUTDOWN,
    kvm_device_attr, kvm_userspace_memory_region,
};
use kvm_ioctls::VcpuExit;
use std::collections::BTreeSet;
use std::{thread, time::Duration};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

const RAM: u64 = 32 << 20;

fn vm() -> (Kvm, VmFd) {
    let kvm = Kvm::new().unwrap();
    let vm = kvm.create_vm().unwrap();
    (kvm, vm)
}

fn memory(vm: &VmFd) -> GuestMemoryMmap {
    let base = layout::RAM_BASE;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(base), RAM as usize)]).unwrap();
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: base,
        memory_size: RAM,
        userspace_addr: memory.get_host_address(GuestAddress(base)).unwrap() as u64,
    };
    assert_eq!(memory.iter().next().unwrap().len(), RAM);
    // SAFETY: each test keeps `memory` until its vCPUs have left the guest for good.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    memory
}

fn describe(
    memory: &GuestMemoryMmap,
    chip: &Irqchip,
    cpus: &[VcpuFd],
    protocol: &BootProtocol,
) -> Result<Entry, ArchError> {
    let description = Description {
        protocol,
        cmdline: "quiet",
        initrd: None,
        ram: &Aarch64::memory_ranges(RAM),
        parts: PLATFORM,
        rng_seed: [7; 64],
    };
    Aarch64::describe(memory, chip, cpus, &description)
}

#[test]
fn as_many_cpus_as_asked_for_each_with_an_affinity_of_its_own() {
    for count in [1, 2, 8, 64, 123] {
        let (kvm, vm) = vm();
        match Aarch64::create_cpus(&kvm, &vm, count) {
            Ok((chip, cpus)) => {
                let mpidrs: BTreeSet<u64> = cpus.iter().map(|cpu| cpu::mpidr(cpu).unwrap()).collect();
                assert_eq!(mpidrs.len(), count as usize);
                assert!(matches!(chip.gic, Gic::V3 { .. }) || count <= 8);
            }
            Err(error) => {
                assert!(count > 8, "{error}");
                assert!(error.to_string().contains("use at most 8"), "{error}");
            }
        }
    }
}

#[test]
fn more_cpus_than_there_is_room_for_are_refused() {
    let (kvm, vm) = vm();
    let error = Aarch64::create_cpus(&kvm, &vm, MAX_CPUS + 1).unwrap_err();
    assert_eq!(error.to_string(), "513 vCPUs do not fit; aarch64 has room for 512");
}

#[test]
fn only_the_first_cpu_starts_by_itself() {
    let (kvm, vm) = vm();
    let memory = memory(&vm);
    let (chip, cpus) = Aarch64::create_cpus(&kvm, &vm, 3).unwrap();
    let entry = describe(
        &memory,
        &chip,
        &cpus,
        &BootProtocol::Arm64 {
            entry: layout::RAM_BASE,
        },
    )
    .unwrap();
    for (index, cpu) in cpus.iter().enumerate() {
        Aarch64::set_up_cpu(&kvm, cpu, index as u32, 3, &entry).unwrap();
        let expected = if index == 0 {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_STOPPED
        };
        assert_eq!(cpu.get_mp_state().unwrap().mp_state, expected);
    }
}

#[test]
fn the_guest_finds_the_device_tree_in_x0_at_each_start() {
    // str x0, [0x4000_0000]; then PSCI SYSTEM_OFF
    let code = [0xd2a8_0001_u32, 0xf900_0020, 0x52b0_8000, 0x7280_0100, 0xd400_0002];
    let (kvm, vm) = vm();
    let memory = memory(&vm);
    let (chip, mut cpus) = Aarch64::create_cpus(&kvm, &vm, 1).unwrap();
    let entry_point = layout::RAM_BASE + 0x1000;
    memory
        .write_slice(&code.map(u32::to_le_bytes).concat(), GuestAddress(entry_point))
        .unwrap();
    let entry = describe(&memory, &chip, &cpus, &BootProtocol::Arm64 { entry: entry_point }).unwrap();
    let magic: u32 = memory.read_obj(GuestAddress(entry.fdt)).unwrap();
    assert_eq!(u32::from_be(magic), 0xd00d_feed);
    for _ in 0..3 {
        Aarch64::set_up_cpu(&kvm, &cpus[0], 0, 1, &entry).unwrap();
        match cpus[0].run().unwrap() {
            VcpuExit::MmioWrite(0x4000_0000, data) => assert_eq!(data, entry.fdt.to_le_bytes()),
            other => panic!("{other:?}"),
        }
        match cpus[0].run().unwrap() {
            VcpuExit::SystemEvent(event, _) => assert_eq!(event, KVM_SYSTEM_EVENT_SHUTDOWN),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_irqfds_gsi_is_the_number_of_the_shared_interrupt() {
    let (kvm, vm) = vm();
    let (chip, _cpus) = Aarch64::create_cpus(&kvm, &vm, 1).unwrap();
    let register = |offset: u32, value: &mut u32, write: bool| {
        let mut attr = kvm_device_attr {
            flags: 0,
            group: KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
            attr: offset.into(),
            addr: std::ptr::from_mut(value) as u64,
        };
        if write {
            chip.device.set_device_attr(&attr).unwrap();
        } else {
            // SAFETY: `value` is a register's size and outlives the call.
            unsafe { chip.device.get_device_attr(&mut attr) }.unwrap();
        }
    };
    // GICD_ICFGR2: interrupts 32 to 47 are edge-triggered.
    register(0xc08, &mut 0xaaaa_aaaa, true);
    for gsi in [0, 2, 9] {
        let event = EventFd::new(0).unwrap();
        vm.register_irqfd(&event, gsi).unwrap();
        event.write(1).unwrap();
        let mut pending = 0;
        for _ in 0..200 {
            // GICD_ISPENDR1: interrupts 32 to 63.
            register(0x204, &mut pending, false);
            if pending >> gsi & 1 == 1 {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(pending >> gsi, 1, "gsi {gsi}");
    }
}

#[test]
fn a_kernel_for_x86_is_refused_by_name() {
    let (kvm, vm) = vm();
    let memory = memory(&vm);
    let (chip, cpus) = Aarch64::create_cpus(&kvm, &vm, 1).unwrap();
    let error = describe(&memory, &chip, &cpus, &BootProtocol::Pvh { entry: 0 }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a kernel that boots by PVH cannot run on aarch64; use a kernel built for aarch64"
    );
}
