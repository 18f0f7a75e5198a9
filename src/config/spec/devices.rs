//! Virtio devices that can be built. Data alone, like all of a spec.

/// A source of random numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RngSpec {}
