//! A GICv2m frame (Arm Server Base System Architecture, appendix E): tells a guest which shared interrupts messages may
//! raise, and where to.
//!
//! Owns two numbers; runs on the vCPU that makes the access. Messages of functions never come here, the board connects
//! each vector to its interrupt; a message that a CPU writes by itself is not supported and does nothing.
use crate::{
    bus::{BusDevice, Effect},
    primecell,
};

/// Offset of the register that a message is written to, `MSI_SETSPI_NS`.
pub const MESSAGE: u64 = 0x40;
/// `MSI_TYPER`: the first interrupt and how many there are.
const TYPE: u64 = 0x08;

/// See the module.
#[derive(Debug)]
pub struct Gicv2m {
    first: u32,
    count: u32,
}

impl Gicv2m {
    /// A frame for `count` interrupts from the identifier `first` on, which counts private ones too.
    pub fn new(first: u32, count: u32) -> Self {
        Self { first, count }
    }
}

impl BusDevice for Gicv2m {
    fn read(&self, offset: u64, data: &mut [u8]) {
        primecell::answer(offset, data, || match offset {
            TYPE => (self.first & 0x3ff) << 16 | self.count & 0x3ff,
            _ => 0,
        });
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scribble::scribble;

    #[test]
    fn it_tells_its_interrupts() {
        let frame = Gicv2m::new(64, 100);
        let mut data = [0; 4];
        frame.read(TYPE, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x40_0064);
        frame.read(MESSAGE, &mut data);
        assert_eq!(data, [0; 4]);
        scribble(&frame, 0x1000, 4000, |_, effect| assert_eq!(effect, Effect::None));
    }
}
