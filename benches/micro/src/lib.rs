//! Nothing but the benchmarks in `benches/`: they live in a crate of their own so that criterion is built for them alone.
