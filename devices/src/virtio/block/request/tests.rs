use super::{
    super::testing::{header, raw},
    *,
};
use crate::virtio::{disk::testing::TempFile, testing::Driver};

fn target(file: &TempFile, read_only: bool) -> Target {
    Target {
        disk: Arc::new(raw(file.path(), read_only)),
        id: "short".to_owned(),
        cached: true,
        write_through: WriteThrough::Never,
        discard: true,
        write_zeroes: true,
        reported: false,
    }
}

/// Parses and serves one chain of these parts; gives the status, or why there is none, and the length that it goes back
/// with.
fn serve(target: &mut Target, readable: &[&[u8]], writable: &[usize]) -> Result<(u8, u32), RingError> {
    let mut driver = Driver::new(64);
    let mut ring = driver.ring(0);
    let at = driver.add(readable, writable);
    let mut chain = ring.pop().unwrap().unwrap();
    let request = Request::parse(&mut chain)?;
    let written = target.serve(&request, &mut chain);
    let last = at.last().unwrap() + *writable.last().unwrap() as u64 - 1;
    Ok((driver.bytes(last, 1)[0], written))
}

#[test]
fn parts_of_a_request_lie_anywhere_in_its_buffers() {
    let file = TempFile::pattern(8192, 0);
    let mut target = target(&file, false);
    let read = header(0, 2);
    let write = [header(1, 4), vec![7; 512]].concat();
    assert_eq!(
        serve(&mut target, &[&read], &[1025]),
        Ok((0, 1025)),
        "status behind the data"
    );
    assert_eq!(
        serve(&mut target, &[&read[..1], &read[1..9], &read[9..]], &[100, 412, 1]),
        Ok((0, 513))
    );
    assert_eq!(
        serve(&mut target, &[&read[..5], &read[5..], b"left over"], &[512, 1]),
        Ok((0, 513))
    );
    assert_eq!(
        serve(&mut target, &[&write], &[1]),
        Ok((0, 1)),
        "data behind the header"
    );
    assert_eq!(
        serve(&mut target, &[&write[..3], &write[3..20], &write[20..]], &[1]),
        Ok((0, 1))
    );
    assert_eq!(file.bytes()[2048..2560], [7; 512]);
}

#[test]
fn a_chain_without_a_status_is_a_broken_ring() {
    let file = TempFile::pattern(4096, 0);
    let error = serve(&mut target(&file, false), &[&header(0, 0)], &[0]).unwrap_err();
    assert_eq!(
        error,
        RingError::Protocol("a request to a disk has no room for its status")
    );
}

#[test]
fn half_a_header_is_an_error_of_the_request() {
    let file = TempFile::pattern(4096, 0);
    for len in 0..16 {
        let (status, written) = serve(&mut target(&file, false), &[&header(0, 0)[..len]], &[512, 1]).unwrap();
        assert_eq!((status, written), (1, 0), "{len}");
    }
}

#[test]
fn a_failed_read_promises_no_bytes_and_a_failed_write_its_status() {
    let file = TempFile::pattern(4096, 0);
    let mut target = target(&file, true);
    assert_eq!(serve(&mut target, &[&header(0, 8)], &[512, 1]), Ok((1, 0)));
    assert_eq!(serve(&mut target, &[&header(1, 0), &[0; 512]], &[1]), Ok((1, 1)));
    assert_eq!(
        serve(&mut target, &[&header(4, 0)], &[1]),
        Ok((0, 1)),
        "a flush is fine"
    );
}

#[test]
fn a_short_serial_number_is_filled_up_and_a_long_buffer_is_not() {
    let file = TempFile::pattern(4096, 0);
    assert_eq!(
        serve(&mut target(&file, false), &[&header(8, 0)], &[20, 1]),
        Ok((0, 21))
    );
    assert_eq!(
        serve(&mut target(&file, false), &[&header(8, 0)], &[30, 1]),
        Ok((0, 20))
    );
}

#[test]
fn only_data_counts_for_a_limit() {
    let mut driver = Driver::new(64);
    let mut ring = driver.ring(0);
    let mut bytes = |kind, data: &[u8], room| {
        driver.add(&[&header(kind, 0), data], &[room, 1]);
        let mut chain = ring.pop().unwrap().unwrap();
        Request::parse(&mut chain).unwrap().bytes(&chain)
    };
    assert_eq!(bytes(0, b"xx", 512), 512);
    assert_eq!(bytes(1, &[0; 100], 3), 100);
    assert_eq!(bytes(4, &[0; 100], 3), 0);
}

#[test]
fn a_driver_that_cannot_flush_gets_its_writes_through() {
    let file = TempFile::pattern(4096, 0);
    let config = Arc::new(ConfigSpace::new([1_u8; 60], 32..33));
    let by = WriteThrough::By(config.clone());
    assert!(!by.is_on() && WriteThrough::Always.is_on() && !WriteThrough::Never.is_on());
    assert!(config.write(32, &[0]) && by.is_on());
    let mut target = Target {
        write_through: by,
        ..target(&file, false)
    };
    assert_eq!(serve(&mut target, &[&header(1, 0), &[0; 512]], &[1]), Ok((0, 1)));
}

#[test]
fn an_error_of_the_storage_is_logged_once() {
    let file = TempFile::pattern(8192, 0);
    let mut target = target(&file, false);
    std::fs::File::options()
        .write(true)
        .open(file.path())
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(serve(&mut target, &[&header(0, 99)], &[512, 1]), Ok((1, 0)));
    assert!(!target.reported, "the driver's own mistake");
    assert_eq!(serve(&mut target, &[&header(0, 0)], &[512, 1]), Ok((1, 0)));
    assert!(target.reported);
}
