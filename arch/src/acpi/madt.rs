//! The MADT (§5.2.12): which CPUs and interrupt controllers there are.
use super::{Machine, sdt};
use acpi_tables::sdt::Sdt;

/// CPUs from this APIC id on can only be named by an x2APIC entry; 255 is the broadcast id of the xAPIC.
const FIRST_X2APIC: u32 = 255;
const ENABLED: u32 = 1;
const IO_APIC_ID: u8 = 0;

pub(super) fn table(machine: &Machine<'_>) -> Sdt {
    let mut body = Vec::new();
    body.extend_from_slice(&machine.local_apic.to_le_bytes());
    // Flags: no pair of 8259s.
    body.extend_from_slice(&0u32.to_le_bytes());
    for id in 0..machine.cpus {
        match u8::try_from(id) {
            Ok(short) if id < FIRST_X2APIC => {
                // Type 0, local APIC: UID, APIC id, flags.
                body.extend_from_slice(&[0, 8, short, short]);
                body.extend_from_slice(&ENABLED.to_le_bytes());
            }
            _ => {
                // Type 9, local x2APIC: reserved word, x2APIC id, flags, UID.
                body.extend_from_slice(&[9, 16, 0, 0]);
                body.extend_from_slice(&id.to_le_bytes());
                body.extend_from_slice(&ENABLED.to_le_bytes());
                body.extend_from_slice(&id.to_le_bytes());
            }
        }
    }
    // Type 1, I/O APIC: id, reserved, address, first GSI.
    body.extend_from_slice(&[1, 12, IO_APIC_ID, 0]);
    body.extend_from_slice(&machine.io_apic.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    let mut table = sdt(*b"APIC", 6);
    table.append_slice(&body);
    table
}
