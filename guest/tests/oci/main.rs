//! `coracle-oci` on this machine, with the kernel: containers of busybox, made, watched and removed as user 0, and
//! compared with what Debian's crun and runc make of the same bundle. Where something is missing, a test says so and
//! passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]
mod bundle;
mod exec;
mod hooks;
mod life;
mod oracles;
mod process;
mod refusals;
mod terminal;
