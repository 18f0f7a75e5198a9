//! The PCI bus in ACPI: the MCFG (PCI Firmware 3.3, section 4.1.2) says where config spaces are, the DSDT what the bridge
//! decodes.
use super::sdt;
use crate::platform::{Part, PartKind};
use acpi_tables::{
    Aml,
    aml::{AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, ResourceTemplate, ZERO},
    sdt::Sdt,
};

/// The config spaces of bus 0 of segment 0, if they are plugged.
pub(super) fn mcfg(parts: &[Part]) -> Option<Sdt> {
    let config = parts.iter().find(|part| part.kind == PartKind::PciConfig)?;
    let mut table = sdt(*b"MCFG", 1);
    table.append_slice(&[0; 8]);
    table.append_slice(&config.base.to_le_bytes());
    // Segment, first and last bus, reserved.
    table.append_slice(&[0; 8]);
    Some(table)
}

/// The bridge of bus 0, and a device that keeps the addresses of its config spaces: Linux uses those of the MCFG only if
/// one does.
pub(super) fn bridge(aml: &mut Vec<u8>, config: &Part, parts: &[Part]) {
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let window = |kind| parts.iter().find(|part| part.kind == kind);
    let memory = window(PartKind::PciMemory).and_then(|part| {
        let (first, last) = (u32::try_from(part.base).ok()?, u32::try_from(last(part)?).ok()?);
        Some(AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            first,
            last,
            None,
        ))
    });
    let io = window(PartKind::PciIo).and_then(|part| {
        let (first, last) = (u16::try_from(part.base).ok()?, u16::try_from(last(part)?).ok()?);
        Some(AddressSpace::new_io(first, last, None))
    });
    let ports = window(PartKind::PciPorts).and_then(|part| {
        let (base, size) = (u16::try_from(part.base).ok()?, u8::try_from(part.size).ok()?);
        Some(IO::new(base, base, 1, size))
    });
    let mut resources: Vec<&dyn Aml> = vec![&buses];
    resources.extend(ports.iter().map(|it| -> &dyn Aml { it }));
    resources.extend(io.iter().map(|it| -> &dyn Aml { it }));
    resources.extend(memory.iter().map(|it| -> &dyn Aml { it }));
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    )
    .to_aml_bytes(aml);
    if let (Ok(base), Ok(size)) = (u32::try_from(config.base), u32::try_from(config.size)) {
        Device::new(
            "_SB_.PCIC".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&Memory32Fixed::new(true, base, size)]),
                ),
            ],
        )
        .to_aml_bytes(aml);
    }
}

/// The last address of a window; `None` for an empty one.
fn last(part: &Part) -> Option<u64> {
    part.base.checked_add(part.size.checked_sub(1)?)
}
