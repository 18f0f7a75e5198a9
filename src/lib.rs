//! coracle: a light VMM on KVM.
//!
//! A JSON config becomes a checked [`config::spec::VmSpec`], [`builder::build`] makes a [`vm::Vm`] of it, and that is a
//! value: start it, pause it, wait for it, drop it. Several in one process are normal. The library prints nothing, never
//! ends the process and installs no logger.
pub mod agent;
mod agent_port;
mod board;
mod boot;
pub mod builder;
pub mod bundle;
pub mod config;
mod console;
mod device;
pub mod doctor;
pub mod event;
pub mod host;
pub mod kvm;
mod machine;
mod memory;
mod msi;
mod pci;
mod vcpu;
pub mod vm;
mod wake;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
