//! The container runtime, which PID 1 of a guest and `coracle-oci` on a host have in common.
pub mod container;
