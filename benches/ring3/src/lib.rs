//! A guest without a kernel, which drives one virtio device from ring 3 and polls: what a request costs is then what the
//! device, KVM and nothing else make of it. For x86_64 alone.
//!
//! The guest itself is in `guest/`, a program of its own; `build.rs` makes [`IMAGE`] of it. What both sides have in common
//! is in [`order`].
/// Compiled by `build.rs` alone; named here for tools that follow modules, such as rustfmt.
#[cfg(any())]
#[path = "../guest/main.rs"]
mod guest;
pub mod order;

/// The guest, an ELF image for the 64-bit Linux boot protocol. Empty on architectures without one.
///
/// It needs two vCPUs: the first runs the benchmark, the second takes its report to the serial port in the end.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest"));
