use super::{
    super::{
        raw::Access,
        testing::{Guest, TempFile, pattern},
    },
    *,
};

const LENS: [usize; 3] = [12_288, 8192, 20_480];

fn members(read_only: bool) -> (Vec<TempFile>, Vec<Raw>) {
    let files: Vec<_> = LENS
        .iter()
        .zip(0..)
        .map(|(len, seed)| TempFile::pattern(*len, seed))
        .collect();
    let access = Access {
        read_only,
        direct: false,
    };
    let members = files
        .iter()
        .map(|file| Raw::open(file.path(), access).unwrap())
        .collect();
    (files, members)
}

fn content(layout: Layout) -> Vec<u8> {
    let all: Vec<_> = LENS.iter().zip(0..).map(|(len, seed)| pattern(*len, seed)).collect();
    match layout {
        Layout::Concatenated => all.concat(),
        Layout::Striped(chunk) => {
            let chunk = chunk as usize;
            let chunks =
                (0..8192 / chunk).flat_map(|i| all.iter().map(move |member| &member[i * chunk..(i + 1) * chunk]));
            chunks.flatten().copied().collect()
        }
    }
}

#[test]
fn reads_and_writes_cross_members() {
    for layout in [Layout::Concatenated, Layout::Striped(4096), Layout::Striped(8192)] {
        let (files, members) = members(false);
        let disk = Aggregate::new(members, layout).unwrap();
        let mut expected = content(layout);
        assert_eq!(disk.len(), expected.len() as u64, "{layout:?}");
        let len = expected.len() - 1024;
        let guest = Guest::new(0x1000, &[1000, len - 1000]);
        disk.read(&mut guest.buffers(), 512).unwrap();
        assert!(guest.bytes() == expected[512..512 + len], "{layout:?}");

        guest.fill(&pattern(len, 77));
        let mut buffers = guest.buffers();
        disk.write(&mut buffers, 1024).unwrap();
        assert!(buffers.is_empty());
        expected[1024..].copy_from_slice(&pattern(len, 77));
        disk.write_zeroes(4000..17_000, true).unwrap();
        expected[4000..17_000].fill(0);
        disk.discard(8192..8192).unwrap();
        disk.sync().unwrap();
        let mut bytes = vec![0; expected.len()];
        disk.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected, "{layout:?}");
        // The same, put together by hand.
        let parts: Vec<_> = files.iter().map(TempFile::bytes).collect();
        assert!(parts.iter().zip(LENS).all(|(part, len)| part.len() == len));
        if layout == Layout::Concatenated {
            assert!(parts.concat() == expected);
        }
        assert!(disk.read_at(&mut [0; 2], disk.len() - 1).is_err());
    }
}

#[test]
fn the_last_of_a_row_can_grow_and_stripes_grow_together() {
    let grow = |file: &TempFile, len: u64| {
        let file = std::fs::File::options().write(true).open(file.path()).unwrap();
        file.set_len(len).unwrap();
    };
    let (files, raws) = members(false);
    let disk = Aggregate::new(raws, Layout::Concatenated).unwrap();
    grow(&files[0], 1 << 20);
    assert_eq!(
        disk.refresh().unwrap(),
        40_960,
        "a member in the middle keeps its place"
    );
    grow(&files[2], 1 << 20);
    assert_eq!(disk.refresh().unwrap(), 20_480 + (1 << 20));
    disk.read_at(&mut [0; 4096], 1 << 20).unwrap();
    drop(disk);
    let (files, raws) = members(false);
    let disk = Aggregate::new(raws, Layout::Striped(4096)).unwrap();
    for file in &files {
        grow(file, 24_576);
    }
    assert_eq!(disk.refresh().unwrap(), 3 * 24_576);
}

#[test]
fn a_member_without_a_stripe_is_refused_and_reading_is_read_only() {
    let (_files, raws) = members(true);
    let error = Aggregate::new(raws, Layout::Striped(16_384)).unwrap_err().to_string();
    assert!(
        error.ends_with("holds less than one stripe; make it larger or stripe_kib smaller"),
        "{error}"
    );
    let (_files, raws) = members(true);
    assert!(Aggregate::new(raws, Layout::Concatenated).unwrap().is_read_only());
}
