use super::*;
use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO};

fn bits(features: &[u32]) -> u64 {
    features.iter().fold(0, |all, bit| all | 1 << bit)
}

#[test]
fn the_host_leaves_unfinished_what_the_driver_accepts() {
    use feature::{GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_UFO};
    assert_eq!(
        accepted(known()),
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO
    );
    assert_eq!(accepted(bits(&[GUEST_CSUM, GUEST_TSO6])), TUN_F_CSUM | TUN_F_TSO6);
    assert_eq!(accepted(bits(&[GUEST_CSUM, GUEST_ECN])), TUN_F_CSUM);
    assert_eq!(accepted(bits(&[GUEST_TSO4, GUEST_UFO])), 0);
    assert_eq!(accepted(bits(&[feature::CSUM, feature::HOST_TSO4])), 0);
}

#[test]
fn room_follows_what_may_come() {
    let limits = |features: &[u32], mtu| {
        let limits = Limits::new(bits(features), mtu);
        (limits.receive, limits.mergeable)
    };
    assert_eq!(limits(&[], None), (12 + 1518, false));
    assert_eq!(limits(&[feature::MRG_RXBUF], Some(9000)), (12 + 9018, true));
    assert_eq!(limits(&[feature::GUEST_UFO], Some(68)), (12 + MAX_FRAME, false));
}

fn header(flags: u8, kind: u8, size: u16, (start, offset): (u16, u16)) -> [u8; 10] {
    let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    header[4..6].copy_from_slice(&size.to_le_bytes());
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8..10].copy_from_slice(&offset.to_le_bytes());
    header
}

#[test]
fn packets_of_another_guest_are_judged_by_what_this_one_takes() {
    let all = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN;
    for (header, offloads, verdict) in [
        (header(0, 0, 0, (0, 0)), 0, Verdict::Pass),
        (header(1, 0, 0, (34, 16)), all, Verdict::Pass),
        (header(1, 0, 0, (34, 16)), 0, Verdict::Complete { start: 34, at: 50 }),
        (header(1, 0, 0, (34, 65)), all, Verdict::Drop),
        (header(1, 0, 0, (u16::MAX, u16::MAX)), 0, Verdict::Drop),
        (header(1, 1, 1460, (34, 16)), all, Verdict::Pass),
        (header(1, 0x81, 1460, (34, 16)), all, Verdict::Pass),
        (header(1, 0x81, 1460, (34, 16)), TUN_F_CSUM | TUN_F_TSO4, Verdict::Drop),
        (header(1, 4, 1460, (34, 16)), all, Verdict::Drop),
        (header(1, 2, 1460, (34, 16)), all, Verdict::Drop),
        (header(1, 1, 0, (34, 16)), all, Verdict::Drop),
        (header(0, 1, 1460, (34, 16)), all, Verdict::Drop),
        (header(1, 1, 1460, (34, 16)), 0, Verdict::Drop),
    ] {
        assert_eq!(judge(header, 100, offloads), verdict, "{header:?} {offloads:#x}");
    }
}

#[test]
fn sums_are_those_of_the_internet() {
    // The example of RFC 1071, section 3.
    let mut sum = Sum::default();
    sum.add(&[0x00, 0x01, 0xf2, 0x03]);
    sum.add(&[0xf4, 0xf5, 0xf6, 0xf7]);
    assert_eq!(sum.finish(), (!0xddf2_u16).to_be_bytes());
    let mut sum = Sum::default();
    sum.add(&[0xff, 0xff, 0]);
    assert_eq!(sum.finish(), [0xff, 0xff]);
}
