//! What a guest access to a device costs before the device sees it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros; a benchmark fails by panicking"
)]
use coracle_devices::bus::{Bus, BusDevice, Effect};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{hint::black_box, sync::Arc};

struct Nothing;

impl BusDevice for Nothing {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bus read");
    for devices in [4, 32, 256] {
        let mut bus = Bus::default();
        for i in 0..devices {
            let base = 0x1000 * i;
            bus.add("nothing", base..base + 0x200, Arc::new(Nothing)).unwrap();
        }
        let at = 0x1000 * (devices / 3) + 0x60;
        group.bench_function(BenchmarkId::from_parameter(devices), |bencher| {
            let mut data = [0; 4];
            bencher.iter(|| bus.read(black_box(at), &mut data));
        });
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
