//! A console with named ports, any rings, and a host that is at times in the way.
#![no_main]
mod support {
    pub mod rings;
}
use coracle_devices::{
    serial::SerialOutput,
    virtio::console::{Console, PortSpec},
};
use libfuzzer_sys::fuzz_target;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Room for so many bytes.
struct Sink(AtomicUsize);

impl SerialOutput for Sink {
    fn put(&self, bytes: &[u8]) -> usize {
        let room = self.0.load(Ordering::Relaxed);
        let taken = room.min(bytes.len());
        self.0.store(room - taken, Ordering::Relaxed);
        taken
    }

    fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

fuzz_target!(|input: &[u8]| {
    let sink = Arc::new(Sink(AtomicUsize::new(300)));
    let Some((count, input)) = input.split_first() else {
        return;
    };
    let specs = (0..count % 3 + 1).map(|index| PortSpec {
        name: if index == 0 {
            String::new()
        } else {
            format!("port{index}")
        },
        console: index == 0,
        output: sink.clone(),
        input_wanted: EventFd::new(EFD_NONBLOCK).unwrap(),
    });
    let device = Console::new(specs.collect()).unwrap();
    let ports = device.ports().to_vec();
    support::rings::drive(device, u64::MAX, input, |input| {
        let port = &ports[usize::from(input.byte()) % ports.len()];
        match input.byte() % 5 {
            0 => {
                port.receive(&vec![7; usize::from(input.byte()) * 8]);
            }
            1 => {
                sink.0.store(input.word() as usize % 100_000, Ordering::Relaxed);
                port.output_drained();
            }
            2 => port.resize(input.byte().into(), input.byte().into()),
            3 => port.set_connected(input.byte() % 2 == 0),
            _ => assert!(!port.is_running() || port.name().len() < 9),
        }
    });
});
