//! What PID 1 of a guest is made of, and the container runtime that it has in common with `coracle-oci` on a host.
pub mod agent;
pub mod children;
pub mod container;
pub mod terminal;
