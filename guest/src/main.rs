//! PID 1 of a coracle guest.
fn main() {}
