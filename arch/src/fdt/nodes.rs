//! The nodes of the tree, one function each. Owns the bindings' property names and cell layouts; never reads the host.
use super::layout::Gic;
use super::{FdtError, Machine, pci};
use crate::platform::{Part, PartKind, Space};
use std::ops::Range;
use vm_fdt::FdtWriter;

/// Phandles: any distinct numbers, of which [`pci`] has one more.
pub(super) const GIC: u32 = 1;
const CLOCK: u32 = 2;
const GPIO: u32 = 3;

/// Second and later cells of an interrupt specifier (`interrupt-controller/arm,gic-v3.yaml`).
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// SPIs end where GICv3's special identifiers begin, at 1020.
const SPI_END: u32 = 1020 - 32;

/// Frequency of the clock by which a 16550 makes its 115200 baud, in Hz.
const UART_HZ: u32 = 1_843_200;
/// Frequency of the bus clock that PrimeCells ask for, in Hz. Nothing measures it.
const BUS_HZ: u32 = 24_000_000;

/// The line of the GPIO controller that the power button pulls, and the key that it means (`KEY_POWER`).
const POWER_LINE: u32 = 3;
const KEY_POWER: u32 = 116;

pub(super) fn chosen(fdt: &mut FdtWriter, machine: &Machine<'_>, parts: &[Part]) -> Result<(), FdtError> {
    if machine.cmdline.contains('\0') {
        return Err(FdtError::Nul);
    }
    let (rng, kaslr) = machine.seed.split_at(56);
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    fdt.property("rng-seed", rng)?;
    fdt.property("kaslr-seed", kaslr)?;
    if let Some(initrd) = &machine.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    if let Some(console) = parts.iter().find(|part| part.kind == PartKind::Console) {
        fdt.property_string("stdout-path", &format!("/{}", name(console)))?;
    }
    fdt.end_node(node)?;
    Ok(())
}

/// Numbers the serial ports, whatever their addresses: the console is `ttyS0`.
pub(super) fn aliases(fdt: &mut FdtWriter, parts: &[Part]) -> Result<(), FdtError> {
    let node = fdt.begin_node("aliases")?;
    for (alias, kind) in [("serial0", PartKind::Console), ("serial1", PartKind::AgentPort)] {
        if let Some(part) = parts.iter().find(|part| part.kind == kind) {
            fdt.property_string(alias, &format!("/{}", name(part)))?;
        }
    }
    fdt.end_node(node)?;
    Ok(())
}

pub(super) fn memory(fdt: &mut FdtWriter, ram: &[Range<u64>]) -> Result<(), FdtError> {
    for range in ram {
        let node = fdt.begin_node(&format!("memory@{:x}", range.start))?;
        fdt.property_string("device_type", "memory")?;
        reg(fdt, &[range])?;
        fdt.end_node(node)?;
    }
    Ok(())
}

pub(super) fn cpus(fdt: &mut FdtWriter, cpus: &[u64]) -> Result<(), FdtError> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for mpidr in cpus {
        // The affinity fields alone (`arm/cpus.yaml`).
        let affinity = mpidr & 0x00ff_00ff_ffff;
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", affinity)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(node)?;
    Ok(())
}

pub(super) fn psci(fdt: &mut FdtWriter) -> Result<(), FdtError> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;
    Ok(())
}

pub(super) fn gic(fdt: &mut FdtWriter, gic: &Gic, parts: &[Part]) -> Result<(), FdtError> {
    let (compatible, windows) = match gic {
        Gic::V2 {
            distributor,
            cpu_interface,
        } => ("arm,gic-400", [distributor, cpu_interface]),
        Gic::V3 {
            distributor,
            redistributors,
        } => ("arm,gic-v3", [distributor, redistributors]),
    };
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", windows[0].start))?;
    fdt.property_string("compatible", compatible)?;
    fdt.property_phandle(GIC)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    reg(fdt, &windows)?;
    if let Some(frame) = parts.iter().find(|part| part.kind == PartKind::MessageFrame) {
        pci::frame(fdt, frame)?;
    }
    fdt.end_node(node)?;
    Ok(())
}

/// The generic timer: secure, physical, virtual and hypervisor interrupt (`timer/arm,arch_timer.yaml`).
pub(super) fn timer(fdt: &mut FdtWriter, machine: &Machine<'_>) -> Result<(), FdtError> {
    // A GICv2 wants to know which CPUs a private interrupt reaches.
    let flags = match machine.gic {
        Gic::V2 { .. } => ((1 << machine.cpus.len().min(8)) - 1) << 8 | LEVEL_HIGH,
        Gic::V3 { .. } => LEVEL_HIGH,
    };
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    fdt.property_array_u32(
        "interrupts",
        &[PPI, 13, flags, PPI, 14, flags, PPI, 11, flags, PPI, 10, flags],
    )?;
    fdt.end_node(node)?;
    Ok(())
}

/// The clock that PrimeCells cannot be probed without, if there are any.
pub(super) fn clock(fdt: &mut FdtWriter, parts: &[Part]) -> Result<(), FdtError> {
    if !parts
        .iter()
        .any(|part| matches!(part.kind, PartKind::Rtc | PartKind::Gpio))
    {
        return Ok(());
    }
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_phandle(CLOCK)?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", BUS_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.end_node(node)?;
    Ok(())
}

pub(super) fn part(fdt: &mut FdtWriter, part: &Part, parts: &[Part]) -> Result<(), FdtError> {
    match (part.kind, part.space) {
        (PartKind::Console | PartKind::AgentPort, Space::Mmio) => serial(fdt, part),
        (PartKind::Rtc, Space::Mmio) => rtc(fdt, part),
        (PartKind::Gpio, Space::Mmio) => gpio(fdt, part),
        (PartKind::VirtioMmio, Space::Mmio) => virtio(fdt, part),
        (PartKind::PciConfig, Space::Mmio) => pci::bridge(fdt, part, parts),
        // Other nodes tell of them.
        (PartKind::PciMemory | PartKind::MessageFrame, Space::Mmio) => Ok(()),
        (kind, space) => Err(FdtError::Kind { kind, space }),
    }
}

fn virtio(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    let node = fdt.begin_node(&name(part))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    window(fdt, part)?;
    edge_interrupt(fdt, part)?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)?;
    Ok(())
}

fn serial(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    let node = fdt.begin_node(&name(part))?;
    fdt.property_string("compatible", "ns16550a")?;
    window(fdt, part)?;
    edge_interrupt(fdt, part)?;
    fdt.property_u32("clock-frequency", UART_HZ)?;
    fdt.end_node(node)?;
    Ok(())
}

/// A clock without alarm: the interrupt of emulated PL031s has never worked well, and a guest needs none.
fn rtc(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    let node = fdt.begin_node(&name(part))?;
    primecell(fdt, "arm,pl031", PL031_ID)?;
    window(fdt, part)?;
    fdt.end_node(node)?;
    Ok(())
}

fn gpio(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    let node = fdt.begin_node(&name(part))?;
    primecell(fdt, "arm,pl061", PL061_ID)?;
    window(fdt, part)?;
    edge_interrupt(fdt, part)?;
    fdt.property_phandle(GPIO)?;
    fdt.property_null("gpio-controller")?;
    fdt.property_u32("#gpio-cells", 2)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.end_node(node)?;

    let keys = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let key = fdt.begin_node("power")?;
    fdt.property_string("label", "Power button")?;
    fdt.property_array_u32("gpios", &[GPIO, POWER_LINE, 0])?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.end_node(key)?;
    fdt.end_node(keys)?;
    Ok(())
}

/// What the identification registers at 0xfe0 hold (PL031: DDI 0224, PL061: DDI 0190). Telling it here saves the eight
/// reads, each a VM exit, by which Linux would find out.
const PL031_ID: u32 = 0x0014_1031;
const PL061_ID: u32 = 0x0014_1061;

fn primecell(fdt: &mut FdtWriter, compatible: &str, id: u32) -> Result<(), FdtError> {
    fdt.property_string_list("compatible", vec![compatible.into(), "arm,primecell".into()])?;
    fdt.property_u32("arm,primecell-periphid", id)?;
    fdt.property_u32("clocks", CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    Ok(())
}

/// The name of a part's node: the kind's generic name and the first address.
fn name(part: &Part) -> String {
    let generic = match part.kind {
        PartKind::Console | PartKind::AgentPort => "serial",
        PartKind::Rtc => "rtc",
        PartKind::Gpio => "gpio",
        PartKind::VirtioMmio => "virtio_mmio",
        _ => "device",
    };
    format!("{generic}@{:x}", part.base)
}

fn window(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    fdt.property_array_u64("reg", &[part.base, part.size])?;
    Ok(())
}

fn reg(fdt: &mut FdtWriter, ranges: &[&Range<u64>]) -> Result<(), FdtError> {
    let cells: Vec<u64> = ranges
        .iter()
        .flat_map(|range| [range.start, range.end.saturating_sub(range.start)])
        .collect();
    fdt.property_array_u64("reg", &cells)?;
    Ok(())
}

/// Edge-triggered, so that an eventfd is all it takes to raise it.
fn edge_interrupt(fdt: &mut FdtWriter, part: &Part) -> Result<(), FdtError> {
    match part.gsi {
        Some(gsi) if gsi < SPI_END => Ok(fdt.property_array_u32("interrupts", &[SPI, gsi, EDGE_RISING])?),
        gsi => Err(FdtError::Interrupt { kind: part.kind, gsi }),
    }
}
