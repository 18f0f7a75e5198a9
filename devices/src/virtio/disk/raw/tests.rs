use super::{
    super::testing::{Guest, TempFile, pattern},
    *,
};

fn open(file: &TempFile, direct: bool) -> Raw {
    let access = Access {
        read_only: false,
        direct,
    };
    Raw::open(file.path(), access).unwrap()
}

#[test]
fn guest_buffers_are_filled_and_written_in_place() {
    let file = TempFile::pattern(65_536, 3);
    let raw = open(&file, false);
    let guest = Guest::new(0x1001, &[100, 1, 3995]);
    raw.read(&mut guest.buffers(), 777).unwrap();
    assert_eq!(guest.bytes(), pattern(65_536, 3)[777..777 + 4096]);
    raw.write(&mut guest.buffers(), 8192).unwrap();
    let mut bytes = vec![0; 4096];
    raw.read_at(&mut bytes, 8192).unwrap();
    assert_eq!(bytes, guest.bytes());
    assert_eq!(raw.len(), 65_536);
}

#[test]
fn the_end_of_the_file_is_an_error_not_a_short_read() {
    let file = TempFile::pattern(4096, 0);
    let raw = open(&file, false);
    let guest = Guest::new(0, &[1024]);
    assert!(raw.read(&mut guest.buffers(), 3584).is_err());
    assert!(raw.read_at(&mut [0; 1024], 3584).is_err());
}

#[test]
fn direct_io_copies_only_what_is_misaligned() {
    if std::env::var_os("CORACLE_EMULATED_HOST").is_some() {
        return; // its files are in memory, past which nothing goes
    }
    let file = TempFile::pattern(1 << 20, 5);
    let raw = open(&file, true);
    let block = u64::from(raw.block_size());
    assert!(block >= SECTOR && block.is_power_of_two());
    let mut content = pattern(1 << 20, 5);

    let aligned = Guest::new(0x2000, &[4096, 8192]);
    assert!(raw.takes(&aligned.buffers(), 4096));
    raw.read(&mut aligned.buffers(), 4096).unwrap();
    assert_eq!(aligned.bytes(), content[4096..16_384]);

    // Misaligned memory, and more than one bounce buffer.
    let skewed = Guest::new(0x2001, &[300_001, 99_999 + 3 * 512 - 400_000 % 512]);
    let len = skewed.bytes().len();
    assert!(!raw.takes(&skewed.buffers(), 0));
    raw.read(&mut skewed.buffers(), 1000).unwrap();
    assert_eq!(skewed.bytes(), content[1000..1000 + len]);

    let odd = Guest::new(0x2003, &[5000, 3192]);
    odd.fill(&pattern(8192, 9));
    raw.write(&mut odd.buffers(), 65_536).unwrap();
    content[65_536..65_536 + 8192].copy_from_slice(&pattern(8192, 9));
    assert!(raw.write(&mut odd.buffers(), 100).is_err(), "a part of a block");
    raw.write_at(&[7; 8192], 131_072).unwrap();
    content[131_072..139_264].fill(7);
    assert!(raw.write_at(&[7; 100], 0).is_err());
    let mut bytes = vec![0; 300_000];
    raw.read_at(&mut bytes, 12_345).unwrap();
    assert_eq!(bytes, content[12_345..312_345]);
    assert_eq!(file.bytes(), content);
}

#[test]
fn the_alignment_can_be_found_by_trying() {
    if std::env::var_os("CORACLE_EMULATED_HOST").is_some() {
        return; // its files are in memory, past which nothing goes
    }
    let file = TempFile::pattern(1 << 20, 0);
    let raw = open(&file, true);
    let (told, found) = (raw.query_alignment().unwrap(), raw.probe_alignment().unwrap());
    assert!(
        found.offset >= told.offset && found.offset <= 4096,
        "{found:?} against {told:?}"
    );
    let small = TempFile::pattern(4096, 0);
    assert_eq!(open(&small, true).probe_alignment().unwrap().offset, 4096);
}

#[test]
fn zeroes_are_written_whatever_the_file_system_can() {
    // Files in memory have holes but no zeroed ranges, others have both.
    for folder in [std::env::temp_dir(), "/dev/shm".into()] {
        let path = folder.join(format!("coracle-zeroes-{}", std::process::id()));
        std::fs::write(&path, pattern(1 << 20, 1)).unwrap();
        let access = Access::default();
        let raw = Raw::open(&path, access).unwrap();
        let mut expected = pattern(1 << 20, 1);
        raw.write_zeroes(100..700_001, false).unwrap();
        expected[100..700_001].fill(0);
        raw.write_zeroes(800_000..900_000, true).unwrap();
        expected[800_000..900_000].fill(0);
        raw.discard(1_000_000..1_000_100).unwrap();
        expected[1_000_000..1_000_100].fill(0);
        raw.write_zeroes(5..5, false).unwrap();
        let after = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(after == expected, "{}", folder.display());
    }
}

#[test]
fn a_file_that_grows_is_seen_when_asked() {
    let file = TempFile::pattern(1000, 0);
    let raw = open(&file, false);
    assert_eq!(raw.len(), 512);
    std::fs::write(file.path(), [0; 5000]).unwrap();
    assert_eq!(raw.len(), 512);
    assert_eq!(raw.refresh().unwrap(), 4608);
    assert_eq!(raw.len(), 4608);
}

#[test]
fn what_cannot_be_a_disk_is_refused_with_the_way_out() {
    let refused = |path: &Path, read_only| {
        let access = Access {
            read_only,
            direct: false,
        };
        Raw::open(path, access).unwrap_err().to_string()
    };
    let (none, empty) = (TempFile::none(), TempFile::with(&[0; 511]));
    let name = none.path().display();
    assert_eq!(
        refused(none.path(), true),
        format!("cannot open the disk {name}; is the path right, and may this user read it?")
    );
    assert!(refused(none.path(), false).ends_with("may this user read and write it?"));
    assert!(refused(empty.path(), true).contains("has less than one sector"));
    assert!(refused(Path::new("/dev/null"), true).contains("neither a file nor a block device"));
    assert!(refused(Path::new("/proc"), true).contains("neither a file nor a block device"));
    let access = Access {
        read_only: true,
        direct: true,
    };
    let proc = Raw::open(Path::new("/proc/version"), access).unwrap_err().to_string();
    assert!(proc.contains("does not support direct I/O"), "{proc}");
}
