//! What Arm's PrimeCell peripherals have in common: 4 KiB of 32-bit registers that end with identification bytes.
//!
//! Owns nothing. A register answers reads of 4 bytes and of the 1 or 2 low ones, further bytes read 0; accesses that
//! do not start at a register read 0 and write nothing.

/// Bytes of the window.
pub(crate) const SIZE: u64 = 0x1000;

const PERIPHERAL_ID: u64 = 0xfe0;
const CELL_ID: u64 = 0xff0;
const CELL: u32 = 0xb105_f00d;

/// The identification byte at `offset`, if there is one, for a peripheral of this number.
pub(crate) fn identification(offset: u64, peripheral: u32) -> Option<u32> {
    let (word, register) = match offset {
        PERIPHERAL_ID..CELL_ID => (peripheral, (offset - PERIPHERAL_ID) / 4),
        CELL_ID..SIZE => (CELL, (offset - CELL_ID) / 4),
        _ => return None,
    };
    Some((word >> (8 * register)) & 0xff)
}

/// Answers a read at `offset` with what `register` says of the register there.
pub(crate) fn answer(offset: u64, data: &mut [u8], register: impl FnOnce() -> u32) {
    data.fill(0);
    if offset.is_multiple_of(4) {
        for (to, from) in data.iter_mut().zip(register().to_le_bytes()) {
            *to = from;
        }
    }
}

/// The value that a write puts into the register at `offset`, if one starts there. Bytes not written count as 0.
pub(crate) fn written(offset: u64, data: &[u8]) -> Option<u32> {
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    offset.is_multiple_of(4).then_some(u32::from_le_bytes(bytes))
}
