use super::*;
use crate::scribble::scribble;

fn read(device: &I8042, offset: u64) -> u8 {
    let mut data = [0xff];
    device.read(offset, &mut data);
    data[0]
}

#[test]
fn keyboard_reset_resets_and_other_commands_do_not() {
    let device = I8042::default();
    assert_eq!(
        read(&device, STATUS) & 2,
        0,
        "the input buffer must look empty, or reboot=k waits"
    );
    for command in 0..0xfe {
        assert_eq!(device.write(STATUS, &[command]), Effect::None, "{command:#x}");
    }
    assert_eq!(device.write(DATA, &[0xfe]), Effect::None);
    assert_eq!(device.write(STATUS, &[0xfe]), Effect::Reset);
}

#[test]
fn a_driver_that_drains_16_bytes_finds_no_end_of_them() {
    let device = I8042::default();
    for _ in 0..16 {
        assert_eq!(read(&device, STATUS) & 1, 1);
        read(&device, DATA);
    }
    assert_eq!(read(&device, STATUS) & 1, 1);
}

#[test]
fn a_guest_that_drains_without_a_limit_comes_to_an_end() {
    let device = I8042::default();
    for _ in 0..3 {
        let mut reads = 0;
        while read(&device, STATUS) & 1 == 1 {
            read(&device, DATA);
            reads += 1;
            assert!(reads <= 64);
        }
    }
}

#[test]
fn the_ports_between_stay_unclaimed() {
    let device = I8042::default();
    for offset in 1..4 {
        assert_eq!(read(&device, offset), 0xff);
    }
}

#[test]
fn survives_random_accesses() {
    scribble(&I8042::default(), SIZE, 4000, |_, effect| {
        assert_ne!(effect, Effect::Shutdown);
    });
}
