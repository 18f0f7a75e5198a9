//! The lines of the table.
use crate::scene::{Device, Scene};
use coracle_ring3::order::Order;

/// Requests under way.
const DEPTHS: [u64; 3] = [1, 8, 32];

/// Name, device, bytes of a request, and whether it writes.
const KINDS: [(&str, Device, u64, bool); 8] = [
    ("rng, 64 bytes", Device::Rng, 64, false),
    ("block read 4 KiB, Sync", Device::Disk("Sync"), 4096, false),
    ("block read 4 KiB, Async", Device::Disk("Async"), 4096, false),
    ("block write 4 KiB, Sync", Device::Disk("Sync"), 4096, true),
    ("block write 4 KiB, Async", Device::Disk("Async"), 4096, true),
    ("net echo 60 bytes, socket", Device::Socket, 60, false),
    ("net echo 1514 bytes, socket", Device::Socket, 1514, false),
    ("net echo 60 bytes, TAP", Device::Tap, 60, false),
];

/// All of them, for guests with or without EVENT_IDX.
pub(crate) fn all(event_idx: bool) -> Vec<Scene> {
    let kinds = KINDS.iter().flat_map(|(name, device, bytes, write)| {
        DEPTHS.map(|depth| Scene {
            name: (*name).to_owned(),
            device: *device,
            order: Order {
                depth,
                bytes: *bytes,
                write: *write,
                event_idx,
                ..Order::default()
            },
        })
    });
    kinds.collect()
}
