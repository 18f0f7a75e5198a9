#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::{super::testing::Driver, *};

#[allow(clippy::unnecessary_wraps, reason = "a source may fail")]
fn sevens(to: &mut [u8]) -> io::Result<()> {
    to.fill(7);
    Ok(())
}

#[test]
fn a_request_is_filled_up_to_the_limit() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    let small = driver.add(&[], &[3, 5]);
    driver.add(&[], &[MAX_REQUEST + 10]);
    ring.drain(|chain| serve(chain, sevens)).unwrap();
    assert_eq!(driver.used(), [(0, 8), (2, MAX_REQUEST as u32)]);
    assert_eq!(driver.bytes(small[1], 5), [7; 5]);
}

#[test]
fn a_request_without_room_breaks_the_ring() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.add(&[b"give"], &[]);
    assert!(ring.drain(|chain| serve(chain, sevens)).is_err());
}
