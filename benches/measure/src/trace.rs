//! Reads the kernel's trace of KVM.

/// The milliseconds of the first `kvm_entry` in a trace, on the clock that the trace uses.
pub fn first_entry_ms(trace: &str) -> Option<f64> {
    let head = trace
        .lines()
        .find_map(|line| Some(line.split_once(": kvm_entry:")?.0))?;
    let seconds: f64 = head.split_whitespace().next_back()?.parse().ok()?;
    Some(seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_counts_and_other_lines_do_not() {
        let trace = "# tracer: nop\n\
            vcpu0-210 [000] d..1.     7.250500: kvm_entry: vcpu 0, rip 0x1000000\n\
            vcpu0-210 [000] d..1.     7.260000: kvm_entry: vcpu 0, rip 0x1000070\n";
        assert_eq!(first_entry_ms(trace), Some(7250.5));
        assert_eq!(first_entry_ms("# tracer: nop\n"), None);
    }
}
