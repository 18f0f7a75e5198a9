//! The command line of coracle.
fn main() {}
