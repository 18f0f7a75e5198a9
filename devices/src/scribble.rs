//! A hostile guest for tests: random accesses of every width at every offset. Test code only.
use crate::bus::{BusDevice, Effect};

/// A seeded xorshift generator, so that a failure can be repeated.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// Does `rounds` accesses inside a window of `size` bytes and calls `check` after each with the write's effect.
pub(crate) fn scribble(device: &dyn BusDevice, size: u64, rounds: u32, mut check: impl FnMut(&mut Dice, Effect)) {
    for seed in 1..=4 {
        let mut dice = Dice::new(seed);
        for _ in 0..rounds {
            let width = 1u64 << dice.below(4);
            if width > size {
                continue;
            }
            let offset = dice.below(size - width + 1);
            let mut data = [0xffu8; 8];
            let window = &mut data[..usize::try_from(width).unwrap()];
            let effect = if dice.below(2) == 0 {
                device.read(offset, window);
                Effect::None
            } else {
                window.fill_with(|| u8::try_from(dice.below(256)).unwrap());
                device.write(offset, window)
            };
            check(&mut dice, effect);
        }
    }
}
