//! The flattened device tree by which an aarch64 guest learns what its machine is made of.
//!
//! Owns the shape of the tree (Devicetree Specification v0.4 and Linux's `Documentation/devicetree/bindings`). Pure:
//! bytes come out, guest memory and KVM are never touched, so it is built and tested on either architecture.
use crate::platform::{Part, PartKind, Space};
use layout::{FDT_SPACE, Gic};
use std::ops::Range;
use vm_fdt::FdtWriter;

pub mod layout;
mod nodes;
mod pci;
#[cfg(test)]
mod tests;

/// All that the tree tells.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// `MPIDR_EL1` of each CPU, the boot CPU first.
    pub cpus: &'a [u64],
    /// The interrupt controller.
    pub gic: &'a Gic,
    /// RAM, sorted.
    pub ram: &'a [Range<u64>],
    /// The devices that are plugged, in any order.
    pub parts: &'a [Part],
    /// The kernel command line.
    pub cmdline: &'a str,
    /// Bytes that hold the initial RAM file system.
    pub initrd: Option<Range<u64>>,
    /// Randomness: the first 56 bytes for the guest's generator, the last 8 for its address-space layout.
    pub seed: [u8; 64],
}

/// Why a machine cannot be told as a device tree.
#[derive(Debug, thiserror::Error)]
pub enum FdtError {
    /// The writer refused a name or a value.
    #[error("cannot write the device tree; shorten the kernel command line")]
    Write(#[from] vm_fdt::Error),
    /// `bootargs` is a string that ends at its first NUL.
    #[error("the kernel command line holds a NUL byte; remove it")]
    Nul,
    /// Linux maps no more.
    #[error("the device tree takes {size} bytes of {FDT_SPACE}; use fewer vCPUs or devices")]
    TooBig {
        /// Bytes in the tree.
        size: usize,
    },
    /// The device has no binding.
    #[error("a {kind:?} in {space:?} space cannot be described by a device tree; leave it out on aarch64")]
    Kind {
        /// What it is.
        kind: PartKind,
        /// Where it is.
        space: Space,
    },
    /// The device cannot work without an interrupt, or the number is none.
    #[error("a {kind:?} with interrupt {gsi:?} cannot be described; give it a shared interrupt below 988")]
    Interrupt {
        /// What it is.
        kind: PartKind,
        /// Its interrupt.
        gsi: Option<u32>,
    },
}

/// Builds the tree, at most [`FDT_SPACE`] bytes.
///
/// # Errors
/// The machine has a part that no binding covers, or the tree gets too big.
pub fn build(machine: &Machine<'_>) -> Result<Vec<u8>, FdtError> {
    let mut parts = machine.parts.to_vec();
    parts.sort_by_key(|part| part.base);

    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", nodes::GIC)?;
    nodes::chosen(&mut fdt, machine, &parts)?;
    nodes::aliases(&mut fdt, &parts)?;
    nodes::memory(&mut fdt, machine.ram)?;
    nodes::cpus(&mut fdt, machine.cpus)?;
    nodes::psci(&mut fdt)?;
    nodes::gic(&mut fdt, machine.gic, &parts)?;
    nodes::timer(&mut fdt, machine)?;
    nodes::clock(&mut fdt, &parts)?;
    for part in &parts {
        nodes::part(&mut fdt, part, &parts)?;
    }
    fdt.end_node(root)?;

    let bytes = fdt.finish()?;
    if bytes.len() as u64 > FDT_SPACE {
        return Err(FdtError::TooBig { size: bytes.len() });
    }
    Ok(bytes)
}
