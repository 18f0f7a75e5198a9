//! Reads the kernel's trace of KVM.
use std::collections::BTreeMap;

/// The milliseconds of the first `kvm_entry` in a trace, on the clock that the trace uses.
pub fn first_entry_ms(trace: &str) -> Option<f64> {
    let head = trace
        .lines()
        .find_map(|line| Some(line.split_once(": kvm_entry:")?.0))?;
    let seconds: f64 = head.split_whitespace().next_back()?.parse().ok()?;
    Some(seconds * 1e3)
}

/// The counts of a histogram by its key, whose values come one after another: `{ ret: 2, esr_ec: 36 }` is `2 36`.
pub fn histogram(text: &str) -> BTreeMap<String, u64> {
    text.lines().filter_map(bucket).collect()
}

/// `{ exit_reason:        114 } hitcount:         61`.
fn bucket(line: &str) -> Option<(String, u64)> {
    let (key, count) = line.trim().strip_prefix('{')?.split_once("} hitcount:")?;
    let values = key.split(',').filter_map(|field| Some(field.split_once(':')?.1.trim()));
    Some((values.collect::<Vec<_>>().join(" "), count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_counts_by_the_values_of_its_keys() {
        let text = "# event histogram\n#\n\n\
            { exit_reason:        114 } hitcount:         61\n\
            { exit_reason:       1024 } hitcount:          3\n\n\
            Totals:\n    Hits: 64\n    Entries: 2\n";
        let expected = BTreeMap::from([("114".to_string(), 61), ("1024".to_string(), 3)]);
        assert_eq!(histogram(text), expected);
        let two = histogram("{ ret:          2, esr_ec:         36 } hitcount:        215\n");
        assert_eq!(two, BTreeMap::from([("2 36".to_string(), 215)]));
    }

    #[test]
    fn the_first_entry_counts_and_other_lines_do_not() {
        let trace = "# tracer: nop\n\
            vcpu0-210 [000] d..1.     7.250500: kvm_entry: vcpu 0, rip 0x1000000\n\
            vcpu0-210 [000] d..1.     7.260000: kvm_entry: vcpu 0, rip 0x1000070\n";
        assert_eq!(first_entry_ms(trace), Some(7250.5));
        assert_eq!(first_entry_ms("# tracer: nop\n"), None);
    }
}
