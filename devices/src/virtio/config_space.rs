//! Device-specific configuration (Virtio 1.2 §2.5): bytes that the driver reads, and some that it writes.
//!
//! Shared between the transport, the device and whoever changes the device from outside (a resized disk, a balloon's
//! target). Its locks are held for copies only.
use super::Signals;
use crate::lock::lock;
use std::{
    ops::Range,
    sync::{Mutex, MutexGuard},
};

/// The configuration bytes of one device.
#[derive(Debug)]
pub struct ConfigSpace {
    state: Mutex<State>,
    writable: Range<usize>,
}

#[derive(Debug)]
struct State {
    bytes: Box<[u8]>,
    /// Changes with every change from the device's side (§2.5.3).
    generation: u8,
    /// The driver that hears of changes.
    signals: Option<Signals>,
}

impl ConfigSpace {
    /// Configuration that the driver may change within `writable` only.
    pub fn new(bytes: impl Into<Box<[u8]>>, writable: Range<usize>) -> Self {
        Self {
            state: Mutex::new(State {
                bytes: bytes.into(),
                generation: 0,
                signals: None,
            }),
            writable,
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Whether there is no configuration.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes bytes from the device's side and tells the driver, if there is one. What lies beyond the end is dropped.
    pub fn set(&self, offset: usize, bytes: &[u8]) {
        let mut state = self.lock();
        if copy_to(&mut state.bytes, offset, bytes) {
            state.generation = state.generation.wrapping_add(1);
            if let Some(signals) = &state.signals {
                signals.config();
            }
        }
    }

    /// The bytes at `offset`, as the device sees them; 0 beyond the end.
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes);
        bytes
    }

    /// A read by the driver; what lies beyond the end stays as it is in `to`.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let state = self.lock();
        for (to, from) in to.iter_mut().zip(state.bytes.get(offset..).unwrap_or_default()) {
            *to = *from;
        }
    }

    /// A write by the driver; `false` if it may not write there.
    #[must_use]
    pub fn write(&self, offset: usize, from: &[u8]) -> bool {
        let end = offset.saturating_add(from.len());
        let allowed = self.writable.start <= offset && end <= self.writable.end;
        allowed && copy_to(&mut self.lock().bytes, offset, from)
    }

    /// The generation that goes with the bytes (§2.5.1).
    pub fn generation(&self) -> u8 {
        self.lock().generation
    }

    /// From here on a driver hears of changes, or none does.
    pub(super) fn attach(&self, signals: Option<Signals>) {
        self.lock().signals = signals;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn copy_to(bytes: &mut [u8], offset: usize, from: &[u8]) -> bool {
    let Some(to) = bytes.get_mut(offset..offset.saturating_add(from.len())) else {
        return false;
    };
    to.copy_from_slice(from);
    true
}
