//! An aperture of PCI as one window of the machine's bus: what is decoded inside it can change, the bus cannot.
//!
//! Owns nothing; runs on the vCPU that makes the access.
use super::{Space, root::Root};
use crate::bus::{BusDevice, Effect};
use std::sync::Arc;

/// See the module.
pub struct Aperture {
    root: Arc<Root>,
    space: Space,
}

impl Aperture {
    /// The root's aperture in `space`.
    pub fn new(root: Arc<Root>, space: Space) -> Self {
        Self { root, space }
    }

    fn address(&self, offset: u64) -> u64 {
        self.root.apertures().of(self.space).start.saturating_add(offset)
    }
}

impl BusDevice for Aperture {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.root.read(self.space, self.address(offset), data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.root.write(self.space, self.address(offset), data)
    }
}
