//! What the probe does beside the VMM.
pub(crate) mod boots;
mod services;
pub(crate) mod trials;
mod vmm;
