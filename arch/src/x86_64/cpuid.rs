//! What CPUID tells the guest: what KVM supports, made true for this guest's topology, without what a guest cannot use.
//!
//! Pure: works on the list that `KVM_GET_SUPPORTED_CPUID` gives. Leaf and bit numbers are of Intel's SDM volume 2A,
//! "CPUID", and AMD's APM volume 3, appendix E.
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Which CPU of how many this is. All are cores of one package, with one thread each; the APIC id is the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) count: u32,
}

impl Place {
    /// Bits of the APIC id that tell the core.
    fn core_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    fn core_mask(self) -> u32 {
        (1 << self.core_bits()) - 1
    }
}

/// Who made the CPU; decides what some leaves mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

const BRAND_INTEL: &[u8; 48] = b"Intel(R) Xeon(R) Processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const BRAND_AMD: &[u8; 48] =
    b"AMD EPYC\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

// Leaf 1, ECX.
const DTES64: u32 = 1 << 2;
const DS_CPL: u32 = 1 << 4;
const PDCM: u32 = 1 << 15;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const XSAVE: u32 = 1 << 26;
const HYPERVISOR: u32 = 1 << 31;
// Leaf 1, EDX.
const DEBUG_STORE: u32 = 1 << 21;
const HYPER_THREADING: u32 = 1 << 28;
/// Leaf 6, EAX: the APIC timer runs in every power state.
const ALWAYS_RUNNING_TIMER: u32 = 1 << 2;
/// Leaf 7, ECX.
const WAITPKG: u32 = 1 << 5;
// Leaf 0x80000001, ECX, AMD.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const PERF_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;
/// Leaves 4 and 0x8000001d, EAX: CPUs that share the cache, and cores in the package, each less one.
const CACHE_SHARING: u32 = 0xfff << 14;
const CACHE_TYPE: u32 = 0x1f;
const NO_CACHE: u32 = 0;
const CACHE_CORES: u32 = 0x3f << 26;
/// The level of a cache, in the same leaves.
const LAST_LEVEL: u32 = 3;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The parts of the extended state that the CPU can save (leaf 0xd), 0 without XSAVE.
pub(super) fn extended_state(entries: &[kvm_cpuid_entry2]) -> u64 {
    let xsave = entries
        .iter()
        .any(|entry| entry.function == 1 && entry.ecx & XSAVE != 0);
    let leaf = entries
        .iter()
        .find(|entry| entry.function == 0xd && entry.index == 0 && xsave);
    leaf.map_or(0, |leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax))
}

/// Makes the list that KVM supports the list of the CPU at `place`. `tsc_deadline` says whether KVM offers the timer mode,
/// which its list leaves out.
pub(super) fn normalise(entries: &mut Vec<kvm_cpuid_entry2>, place: Place, tsc_deadline: bool) {
    let vendor = vendor(entries);
    let basic = entries
        .iter()
        .find(|entry| entry.function == 0)
        .map_or(0, |entry| entry.eax);
    for entry in entries.iter_mut() {
        match entry.function {
            // Linux on AMD reads leaf 0xb as well, if the highest leaf admits it.
            0 => entry.eax = basic.max(TOPOLOGY),
            1 => features(entry, place, tsc_deadline),
            4 => caches(entry, place, vendor == Vendor::Intel),
            6 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & ALWAYS_RUNNING_TIMER, 0, 0, 0),
            7 if entry.index == 0 => entry.ecx &= !WAITPKG,
            // Performance monitoring: architectural (Intel), version 2 (AMD).
            0xa | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0001 if vendor == Vendor::Amd => {
                entry.ecx &= !(PERF_COUNTERS | CMP_LEGACY);
                entry.ecx |= TOPOLOGY_EXTENSIONS | if place.count > 1 { CMP_LEGACY } else { 0 };
            }
            0x8000_0002..=0x8000_0004 => brand(entry, vendor),
            0x8000_0008 if vendor == Vendor::Amd => {
                entry.ecx = place.core_bits().min(0xf) << 12 | (place.count - 1).min(0xff);
            }
            0x8000_001d if vendor == Vendor::Amd => caches(entry, place, false),
            // APIC id; core, one thread each; node, one of one.
            0x8000_001e if vendor == Vendor::Amd => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (place.index, place.index & 0xff, 0, 0);
            }
            _ => {}
        }
    }
    entries.retain(|entry| entry.function != TOPOLOGY && entry.function != TOPOLOGY_V2);
    topology(entries, TOPOLOGY, place);
    if basic >= TOPOLOGY_V2 {
        topology(entries, TOPOLOGY_V2, place);
    }
}

fn vendor(entries: &[kvm_cpuid_entry2]) -> Vendor {
    let Some(leaf) = entries.iter().find(|entry| entry.function == 0) else {
        return Vendor::Other;
    };
    let name = [leaf.ebx.to_le_bytes(), leaf.edx.to_le_bytes(), leaf.ecx.to_le_bytes()].concat();
    match name.as_slice() {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
}

fn features(entry: &mut kvm_cpuid_entry2, place: Place, tsc_deadline: bool) {
    // Bits 15:8, the unit of CLFLUSH, stay.
    entry.ebx = entry.ebx & 0xff00 | (place.index & 0xff) << 24 | place.count.min(0xff) << 16;
    entry.ecx &= !(DTES64 | DS_CPL | PDCM | TSC_DEADLINE);
    // A lone CPU sends no interrupts, and its timer is an MSR in either mode. But a Linux that sees x2APIC reads, masks
    // and restores the whole I/O APIC before it switches: 197 of 2030 exits of a boot.
    if place.count == 1 {
        entry.ecx &= !X2APIC;
    }
    entry.ecx |= HYPERVISOR | if tsc_deadline { TSC_DEADLINE } else { 0 };
    entry.edx &= !(DEBUG_STORE | HYPER_THREADING);
    entry.edx |= if place.count > 1 { HYPER_THREADING } else { 0 };
}

/// One cache: the last level is the package's, the others are each core's own. `cores` says whether the leaf counts cores.
fn caches(entry: &mut kvm_cpuid_entry2, place: Place, cores: bool) {
    if entry.eax & CACHE_TYPE == NO_CACHE {
        return;
    }
    let level = entry.eax >> 5 & 7;
    let sharing = if level >= LAST_LEVEL {
        place.core_mask().min(0xfff)
    } else {
        0
    };
    entry.eax = entry.eax & !CACHE_SHARING | sharing << 14;
    if cores {
        entry.eax = entry.eax & !CACHE_CORES | place.core_mask().min(0x3f) << 26;
    }
}

fn brand(entry: &mut kvm_cpuid_entry2, vendor: Vendor) {
    let brand = match vendor {
        Vendor::Intel => BRAND_INTEL,
        Vendor::Amd => BRAND_AMD,
        Vendor::Other => return,
    };
    let part = (entry.function - 0x8000_0002) as usize;
    let words: Vec<u32> = brand
        .chunks_exact(4)
        .skip(part * 4)
        .take(4)
        .map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
        .collect();
    if let [eax, ebx, ecx, edx] = words[..] {
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx);
    }
}

/// The extended topology: one thread per core, `count` cores, and the level that ends the list.
fn topology(entries: &mut Vec<kvm_cpuid_entry2>, function: u32, place: Place) {
    let levels = [
        (0, 1, LEVEL_SMT),
        (place.core_bits(), place.count, LEVEL_CORE),
        (0, 0, 0),
    ];
    for (index, (shift, cpus, level)) in (0..).zip(levels) {
        entries.push(kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: cpus,
            ecx: level << 8 | index,
            edx: place.index,
            ..kvm_cpuid_entry2::default()
        });
    }
}
