//! A PL031 real-time clock (Arm DDI 0224): seconds since 1970, 32 bits.
//!
//! Owns the offset that the guest set and the alarm. Runs on the vCPU that makes the access; never looks at a clock of
//! its own. The alarm shows in the raw interrupt status but is wired to no interrupt: a guest sleeps on its timers, and
//! an alarm nobody can wait for is better not offered.
use crate::{
    bus::{BusDevice, Effect},
    lock::lock,
    primecell,
};
use std::sync::{Mutex, MutexGuard};

/// Bytes of the window.
pub const SIZE: u64 = primecell::SIZE;
/// What the identification registers say, as `arm,primecell-periphid` has it.
pub const PERIPHERAL_ID: u32 = 0x0014_1031;

mod reg {
    pub(super) const DATA: u64 = 0x00;
    pub(super) const MATCH: u64 = 0x04;
    pub(super) const LOAD: u64 = 0x08;
    pub(super) const CONTROL: u64 = 0x0c;
    pub(super) const MASK: u64 = 0x10;
    pub(super) const RAW_STATUS: u64 = 0x14;
    pub(super) const MASKED_STATUS: u64 = 0x18;
    pub(super) const CLEAR: u64 = 0x1c;
}

/// See the module.
pub struct Rtc {
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    alarm: Mutex<Alarm>,
}

#[derive(Default)]
struct Alarm {
    /// What the guest's time is ahead of the host's, modulo 2^32.
    offset: u32,
    load: u32,
    at: u32,
    mask: bool,
    rang: bool,
    /// The guest's time when the alarm was last looked at.
    looked: u32,
}

impl Rtc {
    /// A clock that shows what `clock` says, in seconds since 1970, until the guest sets it. `clock` is
    /// called under a lock and must not block.
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let looked = clock() as u32;
        Self {
            clock: Box::new(clock),
            alarm: Mutex::new(Alarm {
                looked,
                ..Alarm::default()
            }),
        }
    }

    /// The alarm, after it has had its chance to ring. Time may jump over it in either direction.
    fn look(&self) -> MutexGuard<'_, Alarm> {
        let mut alarm = lock(&self.alarm);
        let now = ((self.clock)() as u32).wrapping_add(alarm.offset);
        let passed = now.wrapping_sub(alarm.looked);
        let until = alarm.at.wrapping_sub(alarm.looked);
        // More than half the range is a step back, not a wait of 68 years.
        alarm.rang |= (1..=passed).contains(&until) && passed < u32::MAX / 2;
        alarm.looked = now;
        alarm
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        primecell::answer(offset, data, || {
            let alarm = self.look();
            match offset {
                reg::DATA => alarm.looked,
                reg::MATCH => alarm.at,
                reg::LOAD => alarm.load,
                reg::CONTROL => 1, // it runs, always
                reg::MASK => alarm.mask.into(),
                reg::RAW_STATUS => alarm.rang.into(),
                reg::MASKED_STATUS => (alarm.rang && alarm.mask).into(),
                _ => primecell::identification(offset, PERIPHERAL_ID).unwrap_or(0),
            }
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let Some(value) = primecell::written(offset, data) else {
            return Effect::None;
        };
        let mut alarm = self.look();
        match offset {
            reg::MATCH => {
                alarm.at = value;
                alarm.rang |= value == alarm.looked;
            }
            reg::LOAD => {
                let ahead = value.wrapping_sub(alarm.looked);
                alarm.offset = alarm.offset.wrapping_add(ahead);
                alarm.looked = value;
                alarm.load = value;
                alarm.rang |= value == alarm.at;
            }
            reg::MASK => alarm.mask = value & 1 != 0,
            reg::CLEAR if value & 1 != 0 => alarm.rang = false,
            _ => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests;
