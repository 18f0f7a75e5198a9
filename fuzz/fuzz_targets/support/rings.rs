//! Rings as a hostile driver fills them: mostly right, so that much is reached, and wrong in every way.
use coracle_devices::virtio::{
    Setup, VirtioDevice,
    queue::Ring,
    testing::{Driver, HIGH, INDIRECT, MEMORY, NEXT, Turns, WRITE, memory},
};
use vm_memory::{Bytes, GuestAddress};

/// Entries of each queue.
const SIZE: u16 = 16;

/// The fuzzer's bytes, zeroes after their end.
pub struct Input<'a>(&'a [u8]);

impl Input<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn address(&mut self) -> u64 {
        match self.byte() % 8 {
            0..=3 => 0x1_0000 + u64::from(self.byte()) * 64,
            4 => HIGH + u64::from(self.byte()) * 4096,
            5 => MEMORY - u64::from(self.byte()),
            6 => u64::from(self.word()) << 8,
            _ => 0x1000 + u64::from(self.byte()) * 64,
        }
    }

    fn len(&mut self) -> u32 {
        match self.byte() % 8 {
            0..=3 => self.byte().into(),
            4 => 4096,
            5 => 0,
            6 => MEMORY as u32,
            _ => self.word(),
        }
    }

    /// Writes descriptors and makes them available; their content is the fuzzer's as well.
    fn chain(&mut self, driver: &mut Driver, next: &mut u16) {
        let head = *next % SIZE;
        let count = self.byte() % 4 + 1;
        let writable = self.byte() % (count + 1);
        for part in 0..count {
            let (at, len) = (self.address(), self.len());
            let content = [self.word().to_le_bytes(), self.word().to_le_bytes()].concat();
            let _ = driver.memory.write_slice(&content, GuestAddress(at));
            let odd = self.byte();
            let mut flags = if part + 1 < count { NEXT } else { 0 } | if part >= count - writable { WRITE } else { 0 };
            let mut to = (*next + 1) % SIZE;
            match odd {
                0..8 => flags ^= INDIRECT,
                8..16 => flags ^= WRITE,
                16..24 => to = u16::from(self.byte()),
                _ => {}
            }
            driver.descriptor(*next % SIZE, at, len, (flags, to));
            *next = next.wrapping_add(1);
        }
        driver.publish(head);
    }
}

/// Drives `device`, whose driver accepts `features`; `host` is asked now and then to do something on the host's side.
pub fn drive<D: VirtioDevice>(mut device: D, features: u64, bytes: &[u8], mut host: impl FnMut(&mut Input<'_>)) {
    let mut input = Input(bytes);
    let memory = memory();
    let mut drivers: Vec<_> = (0..device.queue_sizes().len() as u64)
        .map(|queue| Driver::at(memory.clone(), SIZE, queue * 0x1_0000 % 0x6_0000))
        .collect();
    let mut next = vec![0; drivers.len()];
    let mut setup = Setup {
        memory: memory.clone(),
        features: features & device.features(),
        signals: drivers[0].signals.clone(),
        rings: (0..).zip(&drivers).map(|(index, driver)| driver.ring(index)).collect(),
    };
    let mut turns = Turns::new(device.start(setup).unwrap());
    while !input.is_empty() {
        let queue = usize::from(input.byte()) % drivers.len();
        match input.byte() % 16 {
            0..8 => {
                input.chain(&mut drivers[queue], &mut next[queue]);
                drivers[queue].kick.write(1).unwrap();
                turns.turn();
            }
            8..10 => input.chain(&mut drivers[queue], &mut next[queue]),
            10..13 => host(&mut input),
            13 => {
                // Bytes change under the device, rings included.
                let at = 0x1000 + u64::from(input.word()) % 0x6_0000;
                memory.write_obj(input.word(), GuestAddress(at)).unwrap();
                drivers[queue].kick.write(1).unwrap();
                turns.turn();
            }
            kind => {
                let rings = device.stop(turns.end());
                assert_eq!(rings.len(), drivers.len(), "a queue is lost");
                for ring in rings {
                    let (index, queue) = Ring::stop(ring);
                    drivers[usize::from(index)].queue = queue;
                }
                if kind == 15 {
                    device.reset();
                }
                setup = Setup {
                    memory: memory.clone(),
                    features: features & device.features(),
                    signals: drivers[0].signals.clone(),
                    rings: (0..).zip(&drivers).map(|(index, driver)| driver.ring(index)).collect(),
                };
                turns = Turns::new(device.start(setup).unwrap());
            }
        }
    }
    turns.turn();
    assert_eq!(device.stop(turns.end()).len(), drivers.len(), "a queue is lost");
}
