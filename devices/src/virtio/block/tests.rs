use super::{
    testing::{Bench, header, options, raw},
    *,
};
use crate::virtio::{
    disk::testing::{TempFile, pattern},
    testing::Count,
};
use std::sync::atomic::Ordering;

const ENGINES: [Engine; 2] = [Engine::Sync, Engine::Async];
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn reads_and_writes_go_to_their_sectors() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        let before = pattern(1 << 20, 0);
        assert_eq!(
            bench.request(READ, 3, &[], 4096),
            (0, before[1536..5632].to_vec()),
            "{engine:?}"
        );
        assert_eq!(bench.request(WRITE, 2046, &[7; 1024], 0).0, 0);
        assert_eq!(bench.request(FLUSH, 0, &[], 0).0, 0);
        let mut after = before;
        after[2046 * 512..].fill(7);
        assert_eq!(bench.file.bytes(), after, "{engine:?}");
    }
}

#[test]
fn what_does_not_fit_the_disk_is_an_error_and_changes_nothing() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        for (kind, sector, data, room) in [
            (READ, 2048, 0, 512),
            (READ, 2047, 0, 1024),
            (READ, u64::MAX, 0, 512),
            (READ, u64::MAX / 512, 0, 512),
            (READ, 0, 0, 511),
            (READ, 0, 512, 0),
            (WRITE, 0, 100, 0),
            (WRITE, 0, 0, 512),
            (WRITE, 2047, 513, 0),
            (WRITE, 2047, 1024, 0),
            (GET_ID, 0, 0, 19),
        ] {
            let (status, bytes) = bench.request(kind, sector, &vec![9; data], room);
            assert_eq!(
                (status, bytes),
                (1, vec![0; room]),
                "{engine:?} {kind} {sector} {data} {room}"
            );
        }
        assert_eq!(bench.request(99, 0, &[], 0).0, 2);
        assert_eq!(bench.file.bytes(), pattern(1 << 20, 0));
    }
}

#[test]
fn the_serial_number_has_twenty_bytes() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        assert_eq!(bench.request(GET_ID, 0, &[], 20), (0, b"a serial number of m".to_vec()));
    }
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        let mut expected = pattern(1 << 20, 0);
        let two = [range(8, 16, 0), range(1000, 3, 1)].concat();
        assert_eq!(bench.request(WRITE_ZEROES, 0, &two, 0).0, 0);
        expected[8 * 512..24 * 512].fill(0);
        expected[1000 * 512..1003 * 512].fill(0);
        assert_eq!(bench.file.bytes(), expected);
        assert_eq!(bench.request(DISCARD, 0, &range(64, 64, 0), 0).0, 0);
        expected[64 * 512..128 * 512].fill(0);
        assert_eq!(bench.file.bytes(), expected);
        for (kind, data, status) in [
            (DISCARD, range(0, 8, 1), 2),
            (WRITE_ZEROES, range(0, 8, 2), 2),
            (DISCARD, range(2048, 1, 0), 1),
            (WRITE_ZEROES, range(2047, 2, 0), 1),
            (WRITE_ZEROES, range(u64::MAX, u32::MAX, 0), 1),
            (WRITE_ZEROES, [range(0, 8, 0), range(2048, 1, 0)].concat(), 1),
            (DISCARD, vec![0; 15], 1),
            (DISCARD, vec![], 1),
            (DISCARD, range(0, 0, 0).repeat(33), 1),
        ] {
            assert_eq!(bench.request(kind, 0, &data, 0).0, status, "{kind} {data:?}");
        }
        assert_eq!(bench.file.bytes(), expected);
    }
}

#[test]
fn a_disk_for_reading_refuses_changes_whatever_was_negotiated() {
    for engine in ENGINES {
        let mut bench = Bench::with(options(engine), true);
        assert_ne!(bench.device.features() & 1 << feature::RO, 0);
        bench.stop();
        bench.start(0);
        assert_eq!(bench.request(WRITE, 0, &[1; 512], 0).0, 1);
        assert_eq!(bench.request(WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, 2);
        assert_eq!(bench.request(DISCARD, 0, &range(0, 1, 0), 0).0, 2);
        assert_eq!(bench.request(FLUSH, 0, &[], 0).0, 0);
        assert_eq!(bench.request(READ, 0, &[], 512), (0, pattern(512, 0)));
        assert_eq!(bench.file.bytes(), pattern(1 << 20, 0));
    }
}

#[test]
fn features_follow_the_options() {
    let file = TempFile::pattern(4096, 0);
    let offered = |change: &dyn Fn(&mut Options)| {
        let mut options = options(Engine::Sync);
        change(&mut options);
        Block::new(Arc::new(raw(file.path(), false)), options)
            .unwrap()
            .features()
    };
    let has = |features: u64, bit: u32| features & 1 << bit != 0;
    let plain = offered(&|_| {});
    assert!(has(plain, feature::FLUSH) && has(plain, feature::CONFIG_WCE) && has(plain, feature::DISCARD));
    assert!(!has(plain, feature::MQ) && !has(plain, feature::RO) && has(plain, feature::WRITE_ZEROES));
    let other = offered(&|options| {
        options.cache = Cache::Unsafe;
        options.discard = false;
        options.queues = 4;
    });
    assert!(!has(other, feature::FLUSH) && !has(other, feature::CONFIG_WCE) && !has(other, feature::DISCARD));
    assert!(has(other, feature::MQ));
}

#[test]
fn the_configuration_tells_sizes_and_limits() {
    let file = TempFile::pattern(3 * 4096 + 700, 0);
    let device = Block::new(
        Arc::new(raw(file.path(), false)),
        Options {
            queues: 3,
            ..options(Engine::Sync)
        },
    )
    .unwrap();
    let config = device.config();
    assert_eq!(config.len(), 60);
    assert_eq!(
        u64::from_le_bytes(config.get(field::CAPACITY)),
        25,
        "whole sectors only"
    );
    assert_eq!(u32::from_le_bytes(config.get(field::SEG_MAX)), 254);
    assert_eq!(u32::from_le_bytes(config.get(field::BLK_SIZE)), 512);
    assert_eq!(config.get(field::PHYSICAL_BLOCK_EXP), [3]);
    assert_eq!(u16::from_le_bytes(config.get(field::NUM_QUEUES)), 3);
    assert_eq!(config.get(field::WRITEBACK), [1]);
    assert!(config.write(field::WRITEBACK, &[0]) && !config.write(field::CAPACITY, &[0]));
    assert_eq!(device.queue_sizes(), [256; 3]);
}

#[test]
fn a_disk_that_grows_is_told_to_the_driver() {
    let mut bench = Bench::new(Engine::Sync);
    bench.device.config().attach(Some(bench.driver.signals.clone()));
    let capacity = bench.device.capacity();
    let heard = |count: &Count| count.config.load(Ordering::Relaxed);
    assert_eq!(capacity.refresh().unwrap(), 1 << 20);
    assert_eq!(heard(&bench.driver.count), 0, "nothing changed");
    std::fs::write(bench.file.path(), vec![5; 2 << 20]).unwrap();
    assert_eq!(bench.request(READ, 2048, &[], 512).0, 1);
    assert_eq!(capacity.refresh().unwrap(), 2 << 20);
    assert_eq!(heard(&bench.driver.count), 1);
    assert_eq!(u64::from_le_bytes(bench.device.config().get(field::CAPACITY)), 4096);
    assert_eq!(bench.request(READ, 2048, &[], 512), (0, vec![5; 512]));
}

#[test]
fn a_file_that_was_cut_is_an_error_of_the_disk() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        std::fs::File::options()
            .write(true)
            .open(bench.file.path())
            .unwrap()
            .set_len(4096)
            .unwrap();
        assert_eq!(bench.request(READ, 4, &[], 4096).0, 1);
        assert_eq!(bench.request(READ, 0, &[], 4096), (0, pattern(4096, 0)));
        assert!(!bench.driver.signals.needs_reset());
    }
}

#[test]
fn many_requests_take_one_batch_and_one_interrupt() {
    for engine in ENGINES {
        let mut bench = Bench::new(engine);
        let content = pattern(1 << 20, 0);
        let places: Vec<_> = (0..16)
            .map(|i| bench.driver.add(&[&header(READ, i * 8)], &[512, 1536, 1]))
            .collect();
        bench.serve();
        assert_eq!(bench.driver.used().len(), 16);
        assert_eq!(bench.driver.count.used.load(Ordering::Relaxed), 1, "{engine:?}");
        for (i, at) in places.iter().enumerate() {
            assert_eq!(bench.driver.bytes(at[1], 2049)[..2048], content[i * 4096..][..2048]);
            assert_eq!(bench.driver.bytes(at[3], 1), [0]);
        }
    }
}
