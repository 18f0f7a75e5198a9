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
        match Aarch64::create_cpus(&kvm, &vm, count, 0) {
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
    let error = Aarch64::create_cpus(&kvm, &vm, MAX_CPUS + 1, 0).unwrap_err();
    assert_eq!(error.to_string(), "513 vCPUs do not fit; aarch64 has room for 512");
}

#[test]
fn only_the_first_cpu_starts_by_itself() {
    let (kvm, vm) = vm();
    let memory = memory(&vm);
    let (chip, cpus) = Aarch64::create_cpus(&kvm, &vm, 3, 0).unwrap();
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
    let (chip, mut cpus) = Aarch64::create_cpus(&kvm, &vm, 1, 0).unwrap();
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
fn the_boot_cpu_can_switch_on_all_others() {
    // For each affinity in the table at 0x8000_2000: PSCI CPU_ON to 0x8000_1100. At the end, str x0, [0x4000_0000].
    let boot = [
        0xd2b0_000a_u32,
        0xf284_000a,
        0xf840_8541,
        0xb400_00e1,
        0x52b8_8000,
        0x7280_0060,
        0xd2b0_0002,
        0xf282_2002,
        0xd400_0002,
        0x17ff_fff9,
        0xd2a8_0001,
        0xf900_0020,
    ];
    // mrs x0, mpidr_el1; str x0, [0x4000_0000]
    let secondary = [0xd538_00a0_u32, 0xd2a8_0001, 0xf900_0020];
    let (kvm, vm) = vm();
    let memory = memory(&vm);
    // A GICv2 refuses before it creates anything.
    let cpus = Aarch64::create_cpus(&kvm, &vm, 64, 0).or_else(|_| Aarch64::create_cpus(&kvm, &vm, 8, 0));
    let (chip, cpus) = cpus.unwrap();
    let mpidrs: Vec<u64> = cpus.iter().map(|cpu| cpu::mpidr(cpu).unwrap()).collect();
    let affinities: Vec<u8> = mpidrs[1..]
        .iter()
        .flat_map(|mpidr| (mpidr & 0xff_00ff_ffff).to_le_bytes())
        .collect();
    for (at, bytes) in [
        (0x1000, boot.map(u32::to_le_bytes).concat()),
        (0x1100, secondary.map(u32::to_le_bytes).concat()),
        (0x2000, affinities),
    ] {
        memory.write_slice(&bytes, GuestAddress(layout::RAM_BASE + at)).unwrap();
    }
    let protocol = BootProtocol::Arm64 {
        entry: layout::RAM_BASE + 0x1000,
    };
    let entry = describe(&memory, &chip, &cpus, &protocol).unwrap();
    for (index, cpu) in cpus.iter().enumerate() {
        Aarch64::set_up_cpu(&kvm, cpu, index as u32, cpus.len() as u32, &entry).unwrap();
    }
    let threads: Vec<_> = cpus.into_iter().map(|cpu| thread::spawn(|| first_word(cpu))).collect();
    let words: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(words[0], 0, "the last CPU_ON succeeded");
    assert_eq!(words[1..], mpidrs[1..]);
}

/// Runs a vCPU until it stores a word.
fn first_word(mut cpu: VcpuFd) -> u64 {
    match cpu.run().unwrap() {
        VcpuExit::MmioWrite(0x4000_0000, data) => u64::from_le_bytes(data.try_into().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_irqfds_gsi_is_the_number_of_the_shared_interrupt() {
    let (kvm, vm) = vm();
    let (chip, _cpus) = Aarch64::create_cpus(&kvm, &vm, 1, 0).unwrap();
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
    let (chip, cpus) = Aarch64::create_cpus(&kvm, &vm, 1, 0).unwrap();
    let error = describe(&memory, &chip, &cpus, &BootProtocol::Pvh { entry: 0 }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a kernel that boots by PVH cannot run on aarch64; use a kernel built for aarch64"
    );
}
