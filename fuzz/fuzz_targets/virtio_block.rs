//! Requests to a disk, most of them right: whatever comes, each chain goes back once or the ring is broken, and the worker
//! ends with nothing in flight.
#![no_main]
use coracle_devices::{
    rate_limiter::RateLimiter,
    virtio::{
        Setup, VirtioDevice,
        block::{Block, Cache, Engine, Options},
        disk::{
            Disk,
            raw::{Access, Raw},
        },
        testing::{Driver, HIGH, INDIRECT, MEMORY, NEXT, WRITE},
    },
};
use libfuzzer_sys::fuzz_target;
use std::{
    fs::File,
    sync::{Arc, Mutex, OnceLock},
};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of the disk.
const LEN: u64 = 256 << 10;
/// Bytes of guest memory that buffers of right requests may take.
const BUFFERS: usize = 768 << 10;

/// One disk for writing and one for reading, in files that nobody else sees.
fn disks() -> &'static [Arc<Disk>; 2] {
    static DISKS: OnceLock<[Arc<Disk>; 2]> = OnceLock::new();
    DISKS.get_or_init(|| {
        [false, true].map(|read_only| {
            let path = std::env::temp_dir().join(format!("coracle-fuzz-{}-{read_only}", std::process::id()));
            File::create(&path).unwrap().set_len(LEN).unwrap();
            let access = Access {
                read_only,
                direct: false,
            };
            let disk = Raw::open(&path, access).unwrap();
            std::fs::remove_file(&path).unwrap();
            Arc::new(Disk::Raw(disk))
        })
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((flags, mut rest)) = input.split_first() else {
        return;
    };
    let options = Options {
        id: "fuzz".to_owned(),
        cache: if flags & 1 == 0 {
            Cache::Writeback
        } else {
            Cache::Unsafe
        },
        engine: if flags & 2 == 0 { Engine::Sync } else { Engine::Async },
        queues: 1,
        discard: true,
        limiter: Arc::new(Mutex::new(RateLimiter::default())),
    };
    let mut device = Block::new(disks()[usize::from(flags >> 2 & 1)].clone(), options).unwrap();
    let mut driver = Driver::new(32);
    let setup = Setup {
        memory: driver.memory.clone(),
        // The write cache of a disk is always on here: a sync for each write would only slow the search.
        features: device.features() & if flags & 8 == 0 { u64::MAX } else { !(1 << 13 | 1 << 14) },
        signals: driver.signals.clone(),
        rings: vec![driver.ring(0)],
    };
    let mut workers = device.start(setup).unwrap();
    let mut room = BUFFERS;
    let (mut published, mut seen, mut tampered) = (0_usize, 0, false);
    while let [kind, a, b, c, d, more @ ..] = rest {
        rest = more;
        match kind % 16 {
            // A request with its parts in one piece or in several, of whole sectors as a rule.
            0..=9 => {
                let sector = u64::from(u16::from_le_bytes([*a, *b])) % (LEN / 512 + 8);
                let len = match c {
                    0..200 => usize::from(c % 16) * 512,
                    _ => usize::from(*c) * 7,
                };
                if room < len + 64 {
                    break;
                }
                room -= len + 64;
                let number = [0_u32, 1, 0, 1, 4, 8, 11, 13, 0, u32::from(*a)][usize::from(kind % 16)];
                let mut header = number.to_le_bytes().to_vec();
                header.extend([0; 4]);
                header.extend(sector.to_le_bytes());
                if matches!(number, 11 | 13) {
                    header.extend(sector.to_le_bytes());
                    header.extend(u32::from(*c).to_le_bytes());
                    header.extend(u32::from(*d & 3).to_le_bytes());
                }
                let data = vec![*d; if number == 1 { len } else { 0 }];
                let cut = usize::from(*d) % header.len();
                let into = if number == 1 { 0 } else { len };
                match d % 4 {
                    0 => driver.add(&[&header, &data], &[into, 1]),
                    1 => driver.add(&[&[header, data].concat()], &[into + 1]),
                    2 => driver.add(&[&header[..cut], &header[cut..], &data], &[into, 1]),
                    _ => driver.add(&[&header, &data], &[into / 3, into - into / 3, 1]),
                };
                published += 1;
            }
            // Any descriptor, near what is right.
            10 => {
                tampered = true;
                let at = [0x10_000, HIGH, MEMORY - 300, 0x1000, 0x4000, 0x6000, u64::MAX - 7][usize::from(a % 7)];
                let len = [0, 1, 16, 512, 4096, u32::MAX][usize::from(b % 6)];
                let flags = u16::from(c % 8) & (NEXT | WRITE | INDIRECT);
                driver.descriptor(
                    u16::from(*kind >> 4),
                    at.wrapping_add(u64::from(*b)),
                    len,
                    (flags, u16::from(*d % 34)),
                );
            }
            11 => {
                driver.publish(u16::from(a % 34));
                published += 1;
            }
            12 => {
                tampered = true;
                let at = 0x1000 + u64::from(*a) + u64::from(*b) * 256;
                driver.memory.write_slice(&[*c, *d], GuestAddress(at)).unwrap();
            }
            13 if device.config().write(32, &[a & 1]) => {}
            _ => {
                workers.iter_mut().for_each(|worker| worker.serve_all());
                seen += driver.used().len();
            }
        }
    }
    workers.iter_mut().for_each(|worker| worker.serve_all());
    let rings = device.stop(workers);
    assert_eq!(rings.len(), 1);
    seen += driver.used().len();
    // A driver that writes into its own rings gets what it wrote; any other gets each chain back once at most.
    if !tampered {
        assert!(seen <= published, "{seen} of {published}");
    }
});
