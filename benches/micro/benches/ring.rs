//! What a request costs in the ring itself: taking a chain of so many buffers and returning it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion's macros; a benchmark fails by panicking"
)]
use coracle_devices::virtio::testing::Driver;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn pop_push(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring pop and push");
    for buffers in [1, 3, 64] {
        let mut driver = Driver::new(256);
        driver.add(&[&[0; 16]], &vec![4096; buffers - 1]);
        let mut ring = driver.ring(0);
        group.bench_function(BenchmarkId::from_parameter(buffers), |bencher| {
            // The same chain again and again: the driver's part is one index.
            bencher.iter(|| {
                let chain = ring.pop().unwrap().unwrap();
                ring.push(chain, 4096).unwrap();
                driver.publish(0);
            });
        });
    }
}

criterion_group!(benches, pop_push);
criterion_main!(benches);
