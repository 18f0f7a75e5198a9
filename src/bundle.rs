//! Kernel bundles: kernel, initramfs and manifest, made from a distribution package or a given kernel.
pub mod cpio;
pub mod debian;
pub mod modules;
pub mod payload;
mod store;

pub use store::StoreError;
