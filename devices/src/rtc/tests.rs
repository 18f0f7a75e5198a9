use super::*;
use crate::scribble::scribble;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

const START: u64 = 1_800_000_000;

fn rtc() -> (Rtc, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(START));
    let clock = time.clone();
    (Rtc::new(move || clock.load(Relaxed)), time)
}

fn get(rtc: &Rtc, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    rtc.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn set(rtc: &Rtc, offset: u64, value: u32) {
    assert_eq!(rtc.write(offset, &value.to_le_bytes()), Effect::None);
}

#[test]
fn shows_the_clock_and_what_the_guest_set() {
    let (rtc, time) = rtc();
    assert_eq!(get(&rtc, reg::DATA), 1_800_000_000);
    time.fetch_add(5, Relaxed);
    assert_eq!(get(&rtc, reg::DATA), 1_800_000_005);
    for start in [1000, 4_000_000_000] {
        set(&rtc, reg::LOAD, start);
        time.fetch_add(7, Relaxed);
        assert_eq!((get(&rtc, reg::DATA), get(&rtc, reg::LOAD)), (start + 7, start));
    }
    assert_eq!(get(&rtc, reg::CONTROL), 1);
    set(&rtc, reg::DATA, 3);
    assert_eq!(get(&rtc, reg::DATA), 4_000_000_007, "the data register is read-only");
}

#[test]
fn the_alarm_rings_once_when_its_time_passes() {
    let (rtc, time) = rtc();
    set(&rtc, reg::MATCH, 1_800_000_010);
    time.fetch_add(9, Relaxed);
    assert_eq!(get(&rtc, reg::RAW_STATUS), 0);
    time.fetch_add(5, Relaxed);
    assert_eq!((get(&rtc, reg::RAW_STATUS), get(&rtc, reg::MASKED_STATUS)), (1, 0));
    set(&rtc, reg::MASK, 1);
    assert_eq!((get(&rtc, reg::MASK), get(&rtc, reg::MASKED_STATUS)), (1, 1));
    set(&rtc, reg::CLEAR, 1);
    time.fetch_add(5, Relaxed);
    assert_eq!(get(&rtc, reg::RAW_STATUS), 0);
    set(&rtc, reg::MATCH, get(&rtc, reg::DATA));
    assert_eq!(get(&rtc, reg::RAW_STATUS), 1, "now is a match");
}

#[test]
fn a_host_clock_that_steps_back_rings_no_alarm() {
    let (rtc, time) = rtc();
    set(&rtc, reg::MATCH, 1_800_000_100);
    time.fetch_sub(50, Relaxed);
    assert_eq!((get(&rtc, reg::RAW_STATUS), get(&rtc, reg::DATA)), (0, 1_799_999_950));
    time.fetch_add(150, Relaxed);
    assert_eq!(get(&rtc, reg::RAW_STATUS), 1);
}

#[test]
fn identifies_itself_and_answers_narrow_reads() {
    let (rtc, _) = rtc();
    let id: Vec<u32> = (0xfe0..0x1000).step_by(4).map(|o| get(&rtc, o)).collect();
    assert_eq!(id, [0x31, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1]);
    let low = (START as u32).to_le_bytes();
    let mut data = [0xff; 2];
    rtc.read(reg::DATA, &mut data);
    assert_eq!(data, low[..2]);
    rtc.read(2, &mut data);
    assert_eq!(data, [0, 0]);
    let mut wide = [0xff; 8];
    rtc.read(reg::DATA, &mut wide);
    assert_eq!(wide, [low[0], low[1], low[2], low[3], 0, 0, 0, 0]);
}

#[test]
fn survives_random_accesses() {
    let (rtc, time) = rtc();
    scribble(&rtc, SIZE, 20_000, |dice, effect| {
        assert_eq!(effect, Effect::None);
        time.store(dice.below(u64::MAX), Relaxed);
    });
    // The same on the few registers that exist.
    scribble(&rtc, 0x20, 20_000, |dice, _| time.store(dice.below(u64::MAX), Relaxed));
}
