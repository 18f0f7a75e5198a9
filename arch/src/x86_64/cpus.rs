//! vCPUs and the in-kernel interrupt controllers, set up over KVM.
//!
//! Runs on the thread that builds the VM, before any vCPU does.
use super::{
    Entry, Irqchip,
    cpuid::{self, Place},
    layout, registers,
};
use crate::ArchError;
use kvm_bindings::{
    CpuId, KVM_CAP_X2APIC_API, KVM_MAX_CPUID_ENTRIES, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, Msrs, kvm_enable_cap, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

/// CPUs beyond this need APIC ids of more than 8 bits, 255 being the broadcast id.
const XAPIC_CPUS: u32 = 255;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;
/// Offsets and delivery modes of the local APIC's two pins.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const EXTERNAL_INTERRUPT: u32 = 7 << 8;
const NON_MASKABLE: u32 = 4 << 8;
/// What FNINIT and a reset leave: all x87 and SSE exceptions masked.
const FPU_CONTROL: u16 = 0x37f;
const SSE_CONTROL: u32 = 0x1f80;

fn refused(wish: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> ArchError {
    move |source| ArchError::Kvm { wish, source }
}

/// Creates the interrupt controllers and `count` vCPUs.
pub(super) fn create(kvm: &Kvm, vm: &VmFd, count: u32) -> Result<(Irqchip, Vec<VcpuFd>), ArchError> {
    let most = kvm.get_max_vcpus();
    if count == 0 || count as usize > most {
        return Err(ArchError::Limit(format!(
            "{count} vCPUs were asked for; this KVM runs 1 to {most}: set vcpu_count so"
        )));
    }
    if vm.check_extension(Cap::SetIdentityMapAddr) {
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(refused("place its identity map"))?;
    }
    if vm.check_extension(Cap::SetTssAddr) {
        vm.set_tss_address(layout::KVM_TSS)
            .map_err(refused("place its task state"))?;
    }
    if count > XAPIC_CPUS {
        widen_apic_ids(vm)?;
    }
    vm.create_irq_chip()
        .map_err(refused("create the interrupt controllers"))?;
    let cpus = (0..count)
        .map(|index| vm.create_vcpu(index.into()).map_err(refused("create a vCPU")))
        .collect::<Result<_, _>>()?;
    Ok((Irqchip(()), cpus))
}

fn widen_apic_ids(vm: &VmFd) -> Result<(), ArchError> {
    let flags = u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X2APIC_API,
        args: [flags, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&cap)
        .map_err(refused("use APIC ids above 254, which more than 255 vCPUs need"))
}

/// Puts vCPU `index` of `count` into its initial state. CPUID comes first: what MSRs there are depends on it.
pub(super) fn set_up(kvm: &Kvm, cpu: &VcpuFd, place: Place, entry: &Entry) -> Result<(), ArchError> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("tell the CPUID it supports"))?;
    let mut entries = supported.as_slice().to_vec();
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    cpuid::normalise(&mut entries, place, tsc_deadline);
    let cpuid = CpuId::from_entries(&entries)
        .map_err(|_| ArchError::Limit(format!("{} CPUID entries are more than KVM takes", entries.len())))?;
    cpu.set_cpuid2(&cpuid).map_err(refused("set CPUID"))?;
    set_msrs(cpu)?;
    let fpu = kvm_fpu {
        fcw: FPU_CONTROL,
        mxcsr: SSE_CONTROL,
        ..kvm_fpu::default()
    };
    cpu.set_fpu(&fpu).map_err(refused("set the FPU's state"))?;
    if place.index == 0 {
        registers::set_up(cpu, entry)?;
    }
    set_extended_state(cpu, cpuid::extended_state(&entries));
    set_local_apic(cpu)
}

/// Enables all of the extended state, as the guest will do: as long as the guest's XCR0 is not the host's, KVM switches
/// between the two on every exit. Where that fails, the guest starts with the x87 alone, as after a reset.
fn set_extended_state(cpu: &VcpuFd, parts: u64) {
    if parts == 0 {
        return;
    }
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    xcrs.xcrs[0] = kvm_xcr {
        xcr: 0,
        reserved: 0,
        value: parts,
    };
    if let Err(error) = cpu.set_xcrs(&xcrs) {
        log::debug!("this KVM cannot set XCR0 to {parts:#x}: {error}");
    }
}

/// Sets the MSRs whose value at reset is not what firmware leaves. Where KVM lacks one, the guest lives without it.
fn set_msrs(cpu: &VcpuFd) -> Result<(), ArchError> {
    let wanted = [
        (IA32_MISC_ENABLE, FAST_STRINGS),
        (IA32_MTRR_DEF_TYPE, MTRR_ENABLE | WRITE_BACK),
    ];
    let entries = wanted.map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    });
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let msrs = Msrs::from_entries(rest)
            .map_err(|_| ArchError::Limit(format!("{} MSRs are more than KVM takes at once", rest.len())))?;
        // KVM stops at the first that it refuses and tells how many it set.
        let set = cpu.set_msrs(&msrs).map_err(refused("set MSRs"))?;
        if let Some(refused) = rest.get(set) {
            log::debug!("this KVM cannot set MSR {:#x} to {:#x}", refused.index, refused.data);
        }
        rest = rest.get(set + 1..).unwrap_or_default();
    }
    Ok(())
}

/// Connects the pins of the local APIC as firmware does: LINT0 to the 8259, LINT1 to the NMI.
fn set_local_apic(cpu: &VcpuFd) -> Result<(), ArchError> {
    let mut apic = cpu.get_lapic().map_err(refused("read a local APIC"))?;
    put(&mut apic, LVT_LINT0, EXTERNAL_INTERRUPT);
    put(&mut apic, LVT_LINT1, NON_MASKABLE);
    cpu.set_lapic(&apic).map_err(refused("set a local APIC"))
}

fn put(apic: &mut kvm_lapic_state, at: usize, value: u32) {
    for (place, byte) in apic.regs.iter_mut().skip(at).zip(value.to_le_bytes()) {
        *place = byte.cast_signed();
    }
}
