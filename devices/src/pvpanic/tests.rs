use super::*;
use crate::scribble::scribble;

#[test]
fn says_what_it_supports() {
    let mut data = [0xff; 4];
    Pvpanic.read(0, &mut data);
    assert_eq!(data, [3, 0, 0, 0]);
    Pvpanic.read(1, &mut data[..1]);
    assert_eq!(data[0], 0);
}

#[test]
fn a_panic_is_one_and_a_crash_kernel_goes_on() {
    assert_eq!(Pvpanic.write(0, &[PANICKED]), Effect::Panic);
    assert_eq!(Pvpanic.write(0, &[PANICKED | CRASH_LOADED, 0, 0, 0]), Effect::Panic);
    assert_eq!(Pvpanic.write(0, &[CRASH_LOADED]), Effect::None);
    assert_eq!(Pvpanic.write(0, &[4]), Effect::None, "an event it does not offer");
    assert_eq!(Pvpanic.write(1, &[PANICKED]), Effect::None);
}

#[test]
fn survives_random_accesses() {
    scribble(&Pvpanic, SIZE, 4000, |_, effect| {
        assert!(matches!(effect, Effect::None | Effect::Panic));
    });
}
