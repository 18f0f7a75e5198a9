//! The common configuration (Virtio 1.2 §4.1.4.3). Reads of any width show the bytes that are there, a write counts only in
//! the width of its field.
use super::{Function, Half, Interrupts, QueueField};
use std::sync::Arc;

pub(super) struct Registers {
    pub(super) function: Function,
    interrupts: Arc<Interrupts>,
    features_page: u32,
    driver_features_page: u32,
    queue: u16,
}

impl Registers {
    pub(super) fn new(function: Function, interrupts: Arc<Interrupts>) -> Self {
        Self {
            function,
            interrupts,
            features_page: 0,
            driver_features_page: 0,
            queue: 0,
        }
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let register = self.double_word(at & !3).to_le_bytes();
            if let Some(value) = register.get((at % 4) as usize) {
                *byte = *value;
            }
        }
    }

    fn double_word(&self, offset: u64) -> u32 {
        let function = &self.function;
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let queue = function.queue(self.queue);
        let field = |field: fn(&super::super::queue::Queue) -> u64| queue.map_or(0, field);
        match offset {
            0x00 => self.features_page,
            0x04 => function.features(self.features_page),
            0x08 => self.driver_features_page,
            0x0c => function.driver_features(self.driver_features_page),
            0x10 => pair(
                self.interrupts.vector(None),
                u16::try_from(function.kicks().len()).unwrap_or(u16::MAX),
            ),
            0x14 => {
                let status = u16::from_le_bytes([function.status(), function.config().generation()]);
                pair(status, self.queue)
            }
            0x18 => pair(
                queue.map_or(0, |queue| queue.size),
                self.interrupts.vector(Some(self.queue)),
            ),
            // The doorbell of a queue has the queue's number.
            0x1c => queue.map_or(0, |queue| pair(queue.ready.into(), self.queue)),
            0x20 => field(|queue| queue.descriptors) as u32,
            0x24 => (field(|queue| queue.descriptors) >> 32) as u32,
            0x28 => field(|queue| queue.available) as u32,
            0x2c => (field(|queue| queue.available) >> 32) as u32,
            0x30 => field(|queue| queue.used) as u32,
            0x34 => (field(|queue| queue.used) >> 32) as u32,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [value] if offset == 0x14 => self.set_status(value),
            [a, b] => self.write_word(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_double_word(offset, u32::from_le_bytes([a, b, c, d])),
            _ if matches!(offset, 0x20 | 0x28 | 0x30) => {
                for (at, half) in (offset..).step_by(4).zip(data.as_chunks().0.iter().take(2)) {
                    self.write_double_word(at, u32::from_le_bytes(*half));
                }
            }
            _ => {}
        }
    }

    fn write_word(&mut self, offset: u64, value: u16) {
        match offset {
            0x10 => self.interrupts.set_vector(None, value),
            0x16 => self.queue = value,
            0x18 => self.function.set_queue(self.queue, QueueField::Size, value.into()),
            0x1a => self.interrupts.set_vector(Some(self.queue), value),
            // §4.1.4.3.2: a driver never writes 0; queues are disabled by a reset.
            0x1c if value == 1 => self.function.set_queue(self.queue, QueueField::Ready, 1),
            _ => {}
        }
    }

    fn write_double_word(&mut self, offset: u64, value: u32) {
        let field = match offset {
            0x00 => {
                self.features_page = value;
                return;
            }
            0x08 => {
                self.driver_features_page = value;
                return;
            }
            0x0c => return self.function.set_driver_features(self.driver_features_page, value),
            0x20 => QueueField::Descriptors(Half::Low),
            0x24 => QueueField::Descriptors(Half::High),
            0x28 => QueueField::Available(Half::Low),
            0x2c => QueueField::Available(Half::High),
            0x30 => QueueField::Used(Half::Low),
            0x34 => QueueField::Used(Half::High),
            _ => return,
        };
        self.function.set_queue(self.queue, field, value);
    }

    fn set_status(&mut self, value: u8) {
        self.function.set_status(value);
        if value == 0 {
            (self.features_page, self.driver_features_page, self.queue) = (0, 0, 0);
            self.interrupts.reset();
        }
    }
}
