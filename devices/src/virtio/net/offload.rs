//! What may cross a port unfinished: packets without a checksum, or larger than the MTU. Pure.
use super::{HEADER, MAX_FRAME, PLAIN_MTU, feature};

/// The features of a driver that receives such packets, with the bits that TAP interfaces have for them.
const RECEIVED: [(u32, u32); 5] = [
    (feature::GUEST_CSUM, libc::TUN_F_CSUM),
    (feature::GUEST_TSO4, libc::TUN_F_TSO4),
    (feature::GUEST_TSO6, libc::TUN_F_TSO6),
    (feature::GUEST_ECN, libc::TUN_F_TSO_ECN),
    (feature::GUEST_UFO, libc::TUN_F_UFO),
];

/// The `TUN_F_*` bits of accepted features, or of the bits of a GUEST_OFFLOADS command (§5.1.6.5.6.1), which has the same.
pub(super) fn accepted(features: u64) -> u32 {
    let bits = RECEIVED
        .iter()
        .filter(|(feature, _)| features & 1 << feature != 0)
        .fold(0, |bits, (_, bit)| bits | bit);
    // §5.1.3.1: all need checksums, and ECN needs segmentation. The kernel refuses what is not so.
    if bits & libc::TUN_F_CSUM == 0 {
        0
    } else if bits & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
        bits & !libc::TUN_F_TSO_ECN
    } else {
        bits
    }
}

/// Features that a GUEST_OFFLOADS command may name.
pub(super) fn known() -> u64 {
    RECEIVED.iter().fold(0, |bits, (feature, _)| bits | 1 << feature)
}

/// How large packets get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of the largest packet that the driver can get, with its header.
    pub(super) receive: usize,
    /// Whether a packet may take several chains.
    pub(super) mergeable: bool,
}

impl Limits {
    /// Those of a driver that accepted `features` and was told `mtu`.
    pub(super) fn new(features: u64, mtu: Option<u16>) -> Self {
        let mut large = [feature::GUEST_TSO4, feature::GUEST_TSO6, feature::GUEST_UFO].iter();
        let plain = usize::from(mtu.unwrap_or(PLAIN_MTU)) + 14 + 4;
        let frame = if large.any(|bit| features & 1 << bit != 0) {
            MAX_FRAME
        } else {
            plain
        };
        Self {
            receive: HEADER + frame,
            mergeable: features & 1 << feature::MRG_RXBUF != 0,
        }
    }
}

/// Flags of the header (§5.1.6): the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;
/// Kinds of segmentation, and the mark of ECN on them.
const GSO: [(u8, u32); 3] = [(1, libc::TUN_F_TSO4), (3, libc::TUN_F_UFO), (4, libc::TUN_F_TSO6)];
const GSO_ECN: u8 = 0x80;

/// What is to be done with a packet of another guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be given as it is.
    Pass,
    /// Its checksum covers the frame from `start` on and belongs at `at`, both in bytes from the frame's begin.
    Complete {
        /// First byte that counts.
        start: usize,
        /// Where the sum belongs.
        at: usize,
    },
    /// It is wrong, or too large for this driver.
    Drop,
}

/// Judges the header of a packet with a frame of `len` bytes for a driver that takes `offloads` (`TUN_F_*`).
pub(super) fn judge(header: [u8; 10], len: usize, offloads: u32) -> Verdict {
    let [
        flags,
        kind,
        _,
        _,
        size_low,
        size_high,
        start_low,
        start_high,
        at_low,
        at_high,
    ] = header;
    let start = usize::from(u16::from_le_bytes([start_low, start_high]));
    let at = start + usize::from(u16::from_le_bytes([at_low, at_high]));
    let unfinished = flags & NEEDS_CSUM != 0;
    if unfinished && at + 2 > len {
        return Verdict::Drop;
    }
    if kind != 0 {
        let needed = GSO.iter().find(|(gso, _)| *gso == kind & !GSO_ECN).map(|(_, bit)| bit);
        let ecn = if kind & GSO_ECN == 0 { 0 } else { libc::TUN_F_TSO_ECN };
        let size = u16::from_le_bytes([size_low, size_high]);
        return match needed {
            Some(bit) if unfinished && size > 0 && offloads & (bit | ecn) == bit | ecn => Verdict::Pass,
            _ => Verdict::Drop,
        };
    }
    if unfinished && offloads & libc::TUN_F_CSUM == 0 {
        Verdict::Complete { start, at }
    } else {
        Verdict::Pass
    }
}

/// A checksum of the internet (RFC 1071) in the making.
#[derive(Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; all but the last call have an even number.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let [high, low] = [pair.first(), pair.get(1)].map(|byte| u64::from(*byte.unwrap_or(&0)));
            self.0 += high << 8 | low;
        }
    }

    /// What belongs into the packet; never 0, which means "none" to UDP.
    pub(super) fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        match !(sum as u16) {
            0 => 0xffff_u16,
            sum => sum,
        }
        .to_be_bytes()
    }
}

#[cfg(test)]
mod tests;
