//! A balloon with all its queues and any rings: whatever is given back lies in guest memory.
#![no_main]
mod support {
    pub mod rings;
}
use coracle_devices::virtio::balloon::{Balloon, Handle, Options};
use libfuzzer_sys::fuzz_target;
use std::{sync::Arc, time::Duration};

fuzz_target!(|input: &[u8]| {
    let options = Options {
        deflate_on_oom: true,
        statistics: Duration::from_micros(50),
        hinting: true,
        reporting: true,
    };
    let handle = Arc::new(Handle::new(1 << 20));
    // A byte at each end, so that the sanitizer sees a range that is no memory.
    let release = Arc::new(|piece: vm_memory::VolatileSlice<'_>| {
        let end = piece.len().checked_sub(1).expect("an empty piece");
        for at in [0, end] {
            let mut byte = [0];
            piece.subslice(at, 1).unwrap().copy_to(&mut byte);
        }
    });
    let device = Balloon::new(options, handle.clone(), release);
    support::rings::drive(device, u64::MAX, input, |input| match input.byte() % 4 {
        0 => handle.set_target(u64::from(input.word()) << 8),
        1 => {
            handle.start_hinting();
        }
        2 => handle.stop_hinting(),
        _ => assert!(handle.actual() <= u64::from(u32::MAX) * 4096 && handle.statistics().is_none_or(|(s, _)| s == s)),
    });
});
