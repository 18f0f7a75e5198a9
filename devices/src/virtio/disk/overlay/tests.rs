use super::{
    super::{
        raw::Access,
        testing::{Guest, TempFile, pattern},
    },
    *,
};

const LEN: usize = 100 * 4096 + 512;

struct Bench {
    base: TempFile,
    layer: TempFile,
}

impl Bench {
    fn new() -> Self {
        Self {
            base: TempFile::pattern(LEN, 1),
            layer: TempFile::none(),
        }
    }

    fn base(&self) -> Disk {
        let access = Access {
            read_only: true,
            direct: false,
        };
        Disk::Raw(Raw::open(self.base.path(), access).unwrap())
    }

    fn open(&self) -> Overlay {
        Overlay::open(self.layer.path(), self.base(), false, true).unwrap()
    }
}

fn all(overlay: &Overlay) -> Vec<u8> {
    let mut bytes = vec![0; overlay.len() as usize];
    overlay.read_at(&mut bytes, 0).unwrap();
    let guest = Guest::new(0, &[1, bytes.len() - 1]);
    overlay.read(&mut guest.buffers(), 0).unwrap();
    assert!(guest.bytes() == bytes, "both ways of reading agree");
    bytes
}

fn write(overlay: &Overlay, at: usize, bytes: &[u8], expected: &mut [u8]) {
    let guest = Guest::new(0x1000, &[bytes.len() / 3, bytes.len() - bytes.len() / 3]);
    guest.fill(bytes);
    overlay.write(&mut guest.buffers(), at as u64).unwrap();
    expected[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn changes_stay_in_the_layer_and_the_base_stays_as_it_is() {
    let bench = Bench::new();
    let mut expected = pattern(LEN, 1);
    let overlay = bench.open();
    assert_eq!(overlay.len(), LEN as u64);
    assert!(all(&overlay) == expected);
    for (at, len) in [
        (0, 4096),
        (512, 512),
        (8192 + 1024, 9216),
        (LEN - 512, 512),
        (40_960, 65_536),
        (41_472, 512),
    ] {
        write(&overlay, at, &pattern(len, 50 + len as u8), &mut expected);
        assert!(all(&overlay) == expected, "{at} {len}");
    }
    overlay.write_zeroes(200_000..300_001, true).unwrap();
    expected[200_000..300_001].fill(0);
    overlay.write_zeroes(1000..1001, false).unwrap();
    expected[1000] = 0;
    assert!(all(&overlay) == expected);
    overlay.sync().unwrap();
    drop(overlay);
    assert!(all(&bench.open()) == expected, "after opening it again");
    assert!(bench.base.bytes() == pattern(LEN, 1));
}

#[test]
fn many_layers_share_one_base() {
    let bench = Bench::new();
    let other = TempFile::none();
    let (one, two) = (
        bench.open(),
        Overlay::open(other.path(), bench.base(), false, false).unwrap(),
    );
    write(&one, 4096, &[1; 4096], &mut vec![0; LEN]);
    write(&two, 8192, &[2; 4096], &mut vec![0; LEN]);
    let (one, two, base) = (all(&one), all(&two), pattern(LEN, 1));
    assert!(one[4096..8192] == [1; 4096] && one[8192..12_288] == base[8192..12_288]);
    assert!(two[4096..8192] == base[4096..8192] && two[8192..12_288] == [2; 4096]);
}

/// The file as a crash of the host would leave it, if storage got everything up to now.
fn crash(bench: &Bench) -> Bench {
    Bench {
        base: TempFile::with(&bench.base.bytes()),
        layer: TempFile::with(&bench.layer.bytes()),
    }
}

#[test]
fn the_map_follows_the_data_at_a_sync_and_not_before() {
    let bench = Bench::new();
    let overlay = bench.open();
    let mut expected = pattern(LEN, 1);
    let before = expected.clone();
    write(&overlay, 4096, &[9; 8192], &mut expected);
    assert!(all(&crash(&bench).open()) == before, "no bit without a sync");
    overlay.sync().unwrap();
    assert!(all(&crash(&bench).open()) == expected);
    write(&overlay, 4096, &[8; 512], &mut expected);
    assert!(
        all(&crash(&bench).open()) == expected,
        "a cluster that the layer has is written in place"
    );
}

#[test]
fn without_ordering_the_map_is_there_at_once() {
    let bench = Bench::new();
    let overlay = Overlay::open(bench.layer.path(), bench.base(), false, false).unwrap();
    let mut expected = pattern(LEN, 1);
    write(&overlay, 12_288, &[9; 1024], &mut expected);
    assert!(all(&crash(&bench).open()) == expected);
}

#[test]
fn a_dropped_layer_keeps_everything() {
    let bench = Bench::new();
    let mut expected = pattern(LEN, 1);
    let overlay = bench.open();
    write(&overlay, 0, &[3; 512], &mut expected);
    drop(overlay);
    assert!(all(&bench.open()) == expected);
}

#[test]
fn discard_gives_back_room_of_the_layer_alone() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let overlay = bench.open();
    let mut expected = pattern(LEN, 1);
    write(&overlay, 0, &vec![3; 262_144], &mut expected);
    overlay.sync().unwrap();
    let blocks = || std::fs::metadata(bench.layer.path()).unwrap().blocks();
    let before = blocks();
    overlay.discard(1000..300_000).unwrap();
    assert!(blocks() < before - 400, "{} of {before}", blocks());
    expected[4096..262_144].fill(0);
    assert!(all(&overlay) == expected);
}

#[test]
fn parallel_writes_to_one_cluster_all_arrive() {
    let bench = Bench::new();
    let overlay = bench.open();
    let mut expected = pattern(LEN, 1);
    for cluster in 0..20 {
        std::thread::scope(|scope| {
            for sector in 0..8 {
                let overlay = &overlay;
                scope.spawn(move || {
                    let at = cluster * 4096 + sector * 512;
                    write(overlay, at, &[sector as u8 + 1; 512], &mut vec![0; LEN]);
                });
            }
        });
        for sector in 0..8 {
            expected[cluster * 4096 + sector * 512..][..512].fill(sector as u8 + 1);
        }
    }
    assert!(all(&overlay) == expected);
}

#[test]
fn a_sync_leaves_no_page_dirty() {
    let bench = Bench::new();
    let overlay = bench.open();
    let mut expected = pattern(LEN, 1);
    write(&overlay, 0, &[3; 4096], &mut expected);
    assert_eq!(lock(&overlay.map.dirty).len(), 1);
    overlay.sync().unwrap();
    assert!(lock(&overlay.map.dirty).is_empty());
    // A cluster that is set already makes no page dirty.
    write(&overlay, 0, &[4; 4096], &mut expected);
    assert!(lock(&overlay.map.dirty).is_empty());
}

#[test]
fn clusters_of_large_disks_are_larger() {
    let header = |len: u64| {
        let file = TempFile::with(&[0; 512]);
        std::fs::File::options()
            .write(true)
            .open(file.path())
            .unwrap()
            .set_len(len)
            .unwrap();
        let raw = Raw::open(file.path(), Access::default()).unwrap();
        Header::for_base(&Disk::Raw(raw)).unwrap()
    };
    assert_eq!(header(512).cluster(), 4096);
    assert_eq!(header(64 << 30).cluster(), 4096);
    assert_eq!(header((64 << 30) + 4096).cluster(), 8192);
    assert_eq!(header(1 << 40).cluster(), 65_536);
}

#[test]
fn a_file_that_is_no_layer_of_this_base_is_refused() {
    let bench = Bench::new();
    drop(bench.open());
    let good = bench.layer.bytes();
    let refused = |bytes: &[u8], base: Disk| {
        let layer = TempFile::with(bytes);
        Overlay::open(layer.path(), base, false, true).unwrap_err().to_string()
    };
    assert!(refused(b"ext4", bench.base()).contains("it is not empty, and no overlay"));
    assert!(refused(&[0; 8192], bench.base()).contains("no overlay"));
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        refused(&bytes, bench.base())
    };
    assert!(changed(16, 2).contains("it has version 2, not 1"));
    assert!(changed(20, 3).contains("its header is damaged"));
    assert!(changed(20, 200).contains("its header is damaged"));
    assert!(changed(31, 0xff).contains("its header is damaged"));
    let other = TempFile::pattern(4096, 0);
    let raw = Raw::open(other.path(), Access::default()).unwrap();
    let error = refused(&good, Disk::Raw(raw));
    assert!(
        error.contains("made over a base of 410112 bytes, and this one has 4096"),
        "{error}"
    );
    assert!(error.contains("name another file, which is made if it does not exist"));
}

#[test]
fn a_layer_whose_making_was_cut_short_is_completed() {
    let bench = Bench::new();
    drop(bench.open());
    std::fs::write(bench.layer.path(), &bench.layer.bytes()[..4096]).unwrap();
    assert!(all(&bench.open()) == pattern(LEN, 1));
}
