//! Frames and messages between coracle and the program that it runs as PID 1 of a guest. No I/O policy here.
pub mod agent;
pub mod cmdline;
pub mod frame;
pub mod report;
pub mod sandbox;
pub mod tree;
