//! coracle: a light VMM on KVM.
pub mod config;
