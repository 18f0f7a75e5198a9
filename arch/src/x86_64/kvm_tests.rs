//! Tiny guests on `/dev/kvm`: what they find in their registers shows that the entries are as the protocols want them.
#![allow(unsafe_code, reason = "KVM takes guest memory by its address")]
use super::{Entry, X86_64, layout};
use crate::{Arch, Description, kernel::BootProtocol};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const BYTES: usize = 16 << 20;
const CODE: u64 = 0x20_0000;
/// Sends EAX to port 0x500: `mov dx, 0x500; out dx, eax; hlt`.
const SEND: [u8; 6] = [0x66, 0xba, 0x00, 0x05, 0xef, 0xf4];

/// What the guest of `code` sends, started by `protocol` as CPU 0 of `count`.
fn sent(protocol: &BootProtocol, code: &[u8], count: u32) -> u32 {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), BYTES)]).unwrap();
    let kvm = Kvm::new().expect("these tests need /dev/kvm");
    let vm = kvm.create_vm().unwrap();
    let region = kvm_userspace_memory_region {
        memory_size: BYTES as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
        ..kvm_userspace_memory_region::default()
    };
    // SAFETY: `memory` lives longer than `vm` and its vCPUs, which end with this function.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    memory.write_slice(&[code, &SEND].concat(), GuestAddress(CODE)).unwrap();
    let (irqchip, mut cpus) = X86_64::create_cpus(&kvm, &vm, count, 0).unwrap();
    let ram = X86_64::memory_ranges(BYTES as u64);
    let description = Description {
        protocol,
        cmdline: "quiet",
        initrd: None,
        ram: &ram,
        parts: X86_64::PLATFORM,
        rng_seed: [7; 64],
    };
    let entry = X86_64::describe(&memory, &irqchip, &cpus, &description).unwrap();
    for (index, cpu) in (0..).zip(&cpus) {
        X86_64::set_up_cpu(&kvm, cpu, index, count, &entry).unwrap();
    }
    receive(&mut cpus[0])
}

fn receive(cpu: &mut VcpuFd) -> u32 {
    loop {
        match cpu.run() {
            Ok(VcpuExit::IoOut(0x500, data)) => return u32::from_le_bytes(data.try_into().unwrap()),
            Ok(VcpuExit::Intr) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_64_bit_kernel_finds_the_zero_page_in_rsi() {
    let protocol = BootProtocol::Linux64 {
        entry: CODE,
        setup_header: None,
    };
    // mov eax, [rsi + 0x202]
    let magic = sent(&protocol, &[0x8b, 0x86, 0x02, 0x02, 0, 0], 1);
    assert_eq!(magic.to_le_bytes(), *b"HdrS");
}

#[test]
fn a_pvh_kernel_finds_the_start_info_in_ebx() {
    let protocol = BootProtocol::Pvh { entry: CODE as u32 };
    // mov eax, [ebx]
    assert_eq!(sent(&protocol, &[0x8b, 0x03], 2), 0x336e_c578);
}

#[test]
fn cpuid_tells_the_guest_that_it_is_one_and_how_many_cpus_it_has() {
    let protocol = BootProtocol::Linux64 {
        entry: CODE,
        setup_header: None,
    };
    // mov eax, 1; cpuid; mov eax, ecx (or ebx)
    let cpuid = [0xb8, 1, 0, 0, 0, 0x0f, 0xa2];
    assert_ne!(
        sent(&protocol, &[&cpuid[..], &[0x89, 0xc8]].concat(), 4) & 1 << 31,
        0,
        "hypervisor"
    );
    assert_eq!(
        sent(&protocol, &[&cpuid[..], &[0x89, 0xd8]].concat(), 4) >> 16,
        4,
        "APIC id 0 of 4"
    );
}

#[test]
fn a_count_that_kvm_cannot_run_is_refused_with_the_limit() {
    let kvm = Kvm::new().expect("these tests need /dev/kvm");
    let vm = kvm.create_vm().unwrap();
    let most = u32::try_from(kvm.get_max_vcpus()).unwrap();
    for count in [0, most + 1] {
        let message = X86_64::create_cpus(&kvm, &vm, count, 0).unwrap_err().to_string();
        assert!(message.contains(&format!("1 to {most}")), "{message}");
    }
}

#[test]
fn a_command_line_that_does_not_fit_and_an_alien_kernel_are_refused() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), BYTES)]).unwrap();
    let ram = X86_64::memory_ranges(BYTES as u64);
    let describe = |protocol: &BootProtocol, cmdline: &str| {
        let description = Description {
            protocol,
            cmdline,
            initrd: None,
            ram: &ram,
            parts: &[],
            rng_seed: [0; 64],
        };
        X86_64::describe(&memory, &super::Irqchip(()), &[], &description).map_err(|error| error.to_string())
    };
    let linux = BootProtocol::Linux64 {
        entry: CODE,
        setup_header: None,
    };
    assert_eq!(describe(&linux, &"x".repeat(2047)), Ok(Entry::Linux64 { entry: CODE }));
    let mut last = [0; 2];
    memory
        .read_slice(&mut last, GuestAddress(layout::CMDLINE + 2046))
        .unwrap();
    assert_eq!(last, *b"x\0");
    assert!(describe(&linux, &"x".repeat(2048)).unwrap_err().contains("2048 bytes"));
    assert!(
        describe(&BootProtocol::Arm64 { entry: CODE }, "")
            .unwrap_err()
            .contains("arm64")
    );
}
