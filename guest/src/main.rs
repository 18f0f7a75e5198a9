//! PID 1 of a coracle guest.
mod host_agent;

fn main() {
    host_agent::run()
}
