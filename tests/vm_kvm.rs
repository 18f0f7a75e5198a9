//! The runner's promise: a test file whose name begins with `vm_` finds a KVM that runs stock kernels.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows only functions marked as tests, and a test may panic anywhere"
)]
use std::fs::File;

#[test]
fn kvm_opens_and_runs_stock_kernels() {
    File::options().read(true).write(true).open("/dev/kvm").unwrap();
    let kind = coracle::host::kvm_kind();
    assert!(kind.runs_stock_kernels(), "{kind}");
}
