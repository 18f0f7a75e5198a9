use super::*;
use crate::scribble::scribble;

#[test]
fn only_an_enabled_s5_powers_off() {
    for value in 0..=u8::MAX {
        let expected = if value & 0x3c == 0x34 {
            Effect::Shutdown
        } else {
            Effect::None
        };
        assert_eq!(AcpiPower.write(SLEEP_CONTROL, &[value]), expected, "{value:#x}");
        assert_eq!(AcpiPower.write(SLEEP_STATUS, &[value]), Effect::None);
    }
}

#[test]
fn only_the_reset_value_resets() {
    for value in 0..=u8::MAX {
        let expected = if value == RESET_VALUE {
            Effect::Reset
        } else {
            Effect::None
        };
        assert_eq!(AcpiPower.write(RESET, &[value]), expected, "{value:#x}");
    }
}

#[test]
fn wide_accesses_reach_each_register() {
    assert_eq!(AcpiPower.write(0, &[0x34, 0, 0, 0]), Effect::Shutdown);
    assert_eq!(AcpiPower.write(0, &[0, 0x34, 1, 0]), Effect::Reset);
    assert_eq!(AcpiPower.write(1, &[0x34, 0]), Effect::None);
    let mut data = [0xff; 4];
    AcpiPower.read(0, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn survives_random_accesses() {
    let mut seen = Vec::new();
    scribble(&AcpiPower, SIZE, 4000, |_, effect| seen.push(effect));
    assert!(seen.contains(&Effect::Shutdown) && seen.contains(&Effect::Reset));
}
