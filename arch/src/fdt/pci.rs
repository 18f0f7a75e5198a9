//! The nodes of a PCI bus (`pci/host-generic-pci.yaml`, `interrupt-controller/arm,gic.yaml`). Owns their shape.
use super::FdtError;
use crate::platform::{Part, PartKind};
use vm_fdt::FdtWriter;

/// The frame's phandle, one that no other node has.
const MESSAGES: u32 = 4;

/// The first cell of an address in `ranges`: memory below 4 GiB, not prefetchable (IEEE 1275 for PCI, section 2.2.1.1).
const MEMORY_32: u32 = 0x0200_0000;

/// The bridge whose config spaces are at `config`: its bus is the only one, and what it decodes is at the same addresses on
/// both sides.
pub(super) fn bridge(fdt: &mut FdtWriter, config: &Part, parts: &[Part]) -> Result<(), FdtError> {
    let node = fdt.begin_node(&format!("pcie@{:x}", config.base))?;
    fdt.property_string("compatible", "pci-host-ecam-generic")?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_array_u64("reg", &[config.base, config.size])?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_array_u32("bus-range", &[0, 0])?;
    fdt.property_u32("linux,pci-domain", 0)?;
    fdt.property_null("dma-coherent")?;
    let mut ranges = Vec::new();
    for memory in parts.iter().filter(|part| part.kind == PartKind::PciMemory) {
        ranges.push(MEMORY_32);
        for number in [memory.base, memory.base, memory.size] {
            ranges.extend([(number >> 32) as u32, number as u32]);
        }
    }
    fdt.property_array_u32("ranges", &ranges)?;
    if parts.iter().any(|part| part.kind == PartKind::MessageFrame) {
        fdt.property_u32("msi-parent", MESSAGES)?;
    }
    fdt.end_node(node)?;
    Ok(())
}

/// A frame for messages, inside the interrupt controller's node. Its registers tell which interrupts it has.
pub(super) fn frame(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let node = fdt.begin_node(&format!("v2m@{:x}", part.base))?;
    fdt.property_string("compatible", "arm,gic-v2m-frame")?;
    fdt.property_null("msi-controller")?;
    fdt.property_phandle(MESSAGES)?;
    fdt.property_array_u64("reg", &[part.base, part.size])?;
    fdt.end_node(node)?;
    Ok(())
}
