//! ACPI tables of a hardware-reduced x86 machine (ACPI 6.5, §4.1): RSDP, XSDT, FADT, MADT, MCFG, DSDT. Pure bytes, compiled on
//! both architectures.
//!
//! The tables name what the board plugged and say of everything else that it is absent, so that a guest probes little.
//! Runs on the thread that builds the VM; never touches guest memory.
use crate::platform::{Part, PartKind, Space};
use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    rsdp::Rsdp,
    sdt::Sdt,
};

mod dsdt;
mod madt;
mod pci;
#[cfg(test)]
mod tests;

const OEM: [u8; 6] = *b"CORACL";
const OEM_TABLE: [u8; 8] = *b"CORACLE ";
const OEM_REVISION: u32 = 1;
/// `SLP_TYP` of S5, soft-off, in the sleep-control register of [`PartKind::AcpiPower`].
pub const SLEEP_TYPE_S5: u8 = 5;
/// What a write to the reset register of [`PartKind::AcpiPower`] resets by.
pub const RESET_VALUE: u8 = 1;
/// In `IAPC_BOOT_ARCH` (§5.2.9.3): no VGA.
const NO_VGA: u16 = 1 << 2;
/// In `IAPC_BOOT_ARCH`: no CMOS clock.
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// What the tables describe.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// vCPUs; their APIC ids count from 0.
    pub cpus: u32,
    /// The plugged devices.
    pub parts: &'a [Part],
    /// Guest-physical address of the local APICs.
    pub local_apic: u32,
    /// Guest-physical address of the I/O APIC, whose first line is GSI 0.
    pub io_apic: u32,
}

/// The tables as one run of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The tables; the first is the RSDP.
    pub bytes: Vec<u8>,
}

/// Lays the tables of `machine` out for the guest-physical address `at`, which is a multiple of 16; the RSDP comes first.
pub fn tables(machine: &Machine<'_>, at: u64) -> Tables {
    let mut bytes = vec![0; Rsdp::len()];
    let mut place = |table: &Sdt| {
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let place = at + bytes.len() as u64;
        bytes.extend_from_slice(table.as_slice());
        place
    };
    let dsdt = place(&dsdt::table(machine.parts));
    let fadt = place(&fadt(machine.parts, dsdt));
    let madt = place(&madt::table(machine));
    let mcfg = pci::mcfg(machine.parts).map(|table| place(&table));
    let mut xsdt = sdt(*b"XSDT", 1);
    for table in [Some(fadt), Some(madt), mcfg].into_iter().flatten() {
        xsdt.append_slice(&table.to_le_bytes());
    }
    let xsdt = place(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    if let Some(head) = bytes.get_mut(..rsdp.len()) {
        head.copy_from_slice(&rsdp);
    }
    Tables { bytes }
}

/// An empty table.
fn sdt(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, 36, revision, OEM, OEM_TABLE, OEM_REVISION)
}

/// The FADT (§5.2.9), revision 6.5.
fn fadt(parts: &[Part], dsdt: u64) -> Sdt {
    // Power and sleep buttons are devices of the DSDT or absent, never fixed hardware; so is the clock's alarm.
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    if let Some(power) = parts.iter().find(|part| part.kind == PartKind::AcpiPower) {
        fadt = fadt.flag(Flags::ResetRegSup);
        fadt.sleep_control_reg = register(power, 0);
        fadt.sleep_status_reg = register(power, 1);
        fadt.reset_reg = register(power, 2);
        fadt.reset_value = RESET_VALUE;
    }
    let mut bytes = Vec::new();
    fadt.finalize().to_aml_bytes(&mut bytes);
    let mut table = sdt(*b"FACP", 6);
    table.append_slice(bytes.get(36..).unwrap_or_default());
    table
}

/// One byte-wide register of `part`.
fn register(part: &Part, offset: u64) -> GAS {
    let space = match part.space {
        Space::Mmio => AddressSpace::SystemMemory,
        Space::Pio => AddressSpace::SystemIo,
    };
    GAS::new(space, 8, 0, AccessSize::ByteAccess, part.base.saturating_add(offset))
}
