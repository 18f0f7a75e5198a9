//! The config: [`raw`] is what the user typed, [`check`] holds every rule, [`spec`] is what may be built.
//!
//! Nothing here opens a file, touches a logger or knows KVM.
pub mod spec;
