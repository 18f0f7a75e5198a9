use super::*;
use crate::scribble::scribble;

#[test]
fn a_press_interrupts_and_is_read_once() {
    let irq = IrqLine::new().unwrap();
    let ged = Ged::new(irq.clone());
    let read = |offset| {
        let mut data = [0xff; 2];
        ged.read(offset, &mut data);
        data
    };
    assert_eq!(read(0), [0, 0]);
    ged.press_power_button();
    assert_eq!(irq.event().read().unwrap(), 1);
    assert_eq!(ged.write(0, &[0]), Effect::None);
    assert_eq!(read(1), [0, 0], "only byte 0 has the events");
    assert_eq!(read(0), [POWER_BUTTON, 0]);
    assert_eq!(read(0), [0, 0]);
    ged.press_power_button();
    assert_eq!((irq.event().read().unwrap(), read(0)), (1, [POWER_BUTTON, 0]));
}

#[test]
fn survives_random_accesses() {
    let ged = Ged::new(IrqLine::new().unwrap());
    scribble(&ged, SIZE, 4000, |dice, effect| {
        assert_eq!(effect, Effect::None);
        if dice.below(9) == 0 {
            ged.press_power_button();
        }
    });
}
