use super::*;
use crate::scribble::scribble;

const POWER: u8 = 3;
const BIT: u8 = 1 << POWER;
const DATA: u64 = (BIT as u64) << 2;

struct Rig(Gpio, IrqLine);

fn rig() -> Rig {
    let irq = IrqLine::new().unwrap();
    Rig(Gpio::new(irq.clone()), irq)
}

impl Rig {
    fn get(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.0.read(offset, &mut data);
        u32::from_le_bytes(data)
    }
    fn set(&self, offset: u64, value: u8) {
        assert_eq!(self.0.write(offset, &[value]), Effect::None);
    }
    fn irqs(&self) -> u64 {
        self.1.event().read().unwrap_or(0)
    }
    fn level(&self) -> bool {
        self.get(DATA) != 0
    }
    /// What the interrupt handler does: one look, then the acknowledgement.
    fn handle(&self) -> u8 {
        let status = self.get(reg::MASKED_STATUS) as u8;
        self.set(reg::CLEAR, status);
        status
    }
}

#[test]
fn a_driver_that_waits_for_the_contact_to_settle_sees_press_and_release() {
    let r = rig();
    r.set(reg::BOTH_EDGES, BIT);
    r.set(reg::ENABLE, BIT);
    for _ in 0..3 {
        r.0.press(POWER);
        r.0.release(POWER);
        assert_eq!((r.irqs(), r.handle(), r.irqs()), (1, BIT, 0));
        // Some milliseconds later:
        assert!(r.level(), "the press");
        assert_eq!((r.irqs(), r.handle()), (1, BIT));
        assert!(!r.level(), "the release");
        assert_eq!((r.irqs(), r.get(reg::RAW_STATUS)), (0, 0));
    }
}

#[test]
fn a_slow_finger_is_seen_as_it_is() {
    let r = rig();
    r.set(reg::BOTH_EDGES, BIT);
    r.set(reg::ENABLE, BIT);
    r.0.press(POWER);
    r.handle();
    assert!(r.level() && r.level());
    r.irqs();
    r.0.release(POWER);
    assert_eq!((r.irqs(), r.handle(), r.level()), (1, BIT, false));
}

#[test]
fn a_watcher_of_one_edge_needs_to_acknowledge_only() {
    for (event, edges) in [(BIT, 1), (0, 0)] {
        let r = rig();
        r.set(reg::EVENT, event);
        r.set(reg::ENABLE, BIT);
        r.0.press(POWER);
        r.0.release(POWER);
        assert_eq!(r.irqs(), 1);
        assert_eq!(r.level(), edges == 1, "a rising edge waits for its acknowledgement");
        assert_eq!((r.handle(), r.handle(), r.level()), (BIT, 0, false));
    }
}

#[test]
fn lines_nobody_watches_change_at_once() {
    let r = rig();
    r.0.press(POWER);
    assert_eq!((r.level(), r.irqs()), (true, 0));
    assert_eq!(r.get(0xff << 2), u32::from(BIT));
    assert_eq!(r.get(u64::from(!BIT) << 2), 0, "the address masks the data");
    r.0.release(POWER);
    assert!(!r.level());
    r.0.press(8);
    r.0.release(200);
    assert_eq!(r.get(0xff << 2), 0);
}

#[test]
fn a_second_press_ends_a_release_that_waits() {
    let r = rig();
    r.set(reg::BOTH_EDGES, BIT);
    r.set(reg::ENABLE, BIT);
    r.0.press(POWER);
    r.0.release(POWER);
    r.0.press(POWER);
    r.handle();
    assert!(r.level() && r.level(), "it is down until it is released");
    r.0.release(POWER);
    assert!(!r.level());
}

#[test]
fn each_line_interrupts_even_while_another_is_pending() {
    let r = rig();
    r.set(reg::EVENT, 3);
    r.set(reg::ENABLE, 3);
    r.0.press(0);
    assert_eq!(r.irqs(), 1);
    let first = r.get(reg::MASKED_STATUS) as u8;
    r.0.press(1);
    r.set(reg::CLEAR, first);
    assert_eq!((r.irqs(), r.handle()), (1, 2));
    assert_eq!(r.get(reg::RAW_STATUS), 0);
}

#[test]
fn an_edge_that_came_while_masked_interrupts_when_unmasked() {
    let r = rig();
    r.set(reg::EVENT, BIT);
    r.0.press(POWER);
    assert_eq!((r.irqs(), r.get(reg::RAW_STATUS)), (0, u32::from(BIT)));
    r.set(reg::ENABLE, BIT);
    assert_eq!((r.irqs(), r.handle()), (1, BIT));
}

#[test]
fn level_interrupts_follow_the_line() {
    let r = rig();
    r.set(reg::LEVEL_SENSE, BIT);
    r.set(reg::EVENT, BIT);
    r.set(reg::ENABLE, BIT);
    r.0.press(POWER);
    assert_eq!((r.irqs(), r.handle(), r.handle()), (1, BIT, BIT));
    r.0.release(POWER);
    assert_eq!(r.handle(), 0);
}

#[test]
fn the_guest_drives_the_lines_it_made_outputs() {
    let r = rig();
    r.set(0xff << 2, 0xff);
    assert_eq!(r.get(0xff << 2), 0, "inputs cannot be written");
    r.set(reg::DIRECTION, 0x0f);
    r.set(0xaa << 2, 0xff);
    assert_eq!(r.get(0xff << 2), 0x0a);
    r.set(reg::ALTERNATE, 0x55);
    assert_eq!((r.get(reg::ALTERNATE), r.get(reg::DIRECTION)), (0x55, 0x0f));
}

#[test]
fn identifies_itself() {
    let r = rig();
    let id: Vec<u32> = (0xfe0..0x1000).step_by(4).map(|o| r.get(o)).collect();
    assert_eq!(id, [0x61, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn survives_random_accesses_and_every_release_comes_about() {
    let r = rig();
    for window in [SIZE, 0x424] {
        scribble(&r.0, window, 20_000, |dice, effect| {
            assert_eq!(effect, Effect::None);
            let line = dice.below(9) as u8;
            match dice.below(3) {
                0 => r.0.press(line),
                1 => r.0.release(line),
                _ => {}
            }
        });
        (0..8).for_each(|line| r.0.release(line));
        r.set(reg::CLEAR, 0xff);
        r.get(0xff << 2);
        r.set(reg::DIRECTION, 0);
        assert_eq!(r.get(0xff << 2), 0);
    }
}
