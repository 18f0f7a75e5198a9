//! coracle: a light VMM on KVM.
pub mod bundle;
pub mod config;
pub mod doctor;
pub mod host;
