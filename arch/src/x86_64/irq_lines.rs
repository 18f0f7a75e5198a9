//! The routes that KVM gives the lines of its interrupt controllers by itself: the first 16 to the pair of 8259s too.
use crate::platform::Line;

/// Inputs of the I/O APIC.
pub(super) const COUNT: u32 = 24;
/// Inputs of one 8259.
const PIC: u32 = 8;
/// Lines that both know.
const SHARED: u32 = 2 * PIC;

/// KVM's numbers: the first 8259, the second, the I/O APIC.
const IO_APIC: u32 = 2;

/// See the module.
pub(super) const ROUTES: [Line; (COUNT + SHARED) as usize] = routes();

#[expect(
    clippy::indexing_slicing,
    reason = "a constant; the compiler refuses an index that is out of bounds"
)]
const fn routes() -> [Line; (COUNT + SHARED) as usize] {
    let mut routes = [Line {
        gsi: 0,
        chip: IO_APIC,
        pin: 0,
    }; (COUNT + SHARED) as usize];
    let mut gsi = 0;
    while gsi < COUNT {
        routes[gsi as usize] = Line {
            gsi,
            chip: IO_APIC,
            pin: gsi,
        };
        if gsi < SHARED {
            routes[(COUNT + gsi) as usize] = Line {
                gsi,
                chip: gsi / PIC,
                pin: gsi % PIC,
            };
        }
        gsi += 1;
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_reaches_its_controllers() {
        for gsi in 0..COUNT {
            let to: Vec<_> = ROUTES
                .iter()
                .filter(|line| line.gsi == gsi)
                .map(|line| (line.chip, line.pin))
                .collect();
            let pic = (gsi < SHARED).then_some((gsi / 8, gsi % 8));
            assert_eq!(
                to,
                [Some((IO_APIC, gsi)), pic].into_iter().flatten().collect::<Vec<_>>()
            );
        }
    }
}
