#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;

#[test]
fn a_header_is_laid_out_as_the_specification_says() {
    let header = Header {
        source_cid: 0x0102_0304_0506_0708,
        destination_cid: 2,
        source_port: 0x1112_1314,
        destination_port: 0x2122_2324,
        len: 0x3132_3334,
        kind: STREAM,
        op: Op::Data,
        flags: 0x4142_4344,
        room: 0x5152_5354,
        forwarded: 0x6162_6364,
    };
    let bytes = header.bytes();
    assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[8..16], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..20], [0x14, 0x13, 0x12, 0x11]);
    assert_eq!(bytes[24..28], [0x34, 0x33, 0x32, 0x31]);
    assert_eq!(bytes[28..32], [1, 0, 5, 0]);
    assert_eq!(bytes[40..], [0x64, 0x63, 0x62, 0x61]);
    assert_eq!(Header::parse(&bytes), header);
}

#[test]
fn any_bytes_are_a_header_and_come_back() {
    for seed in 0..=255_u8 {
        let mut bytes = [0; HEADER];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = seed.wrapping_mul(31).wrapping_add((n * 7) as u8);
        }
        assert_eq!(Header::parse(&bytes).bytes(), bytes);
    }
}
