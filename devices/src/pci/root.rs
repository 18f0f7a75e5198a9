//! The host bridge and the bus behind it: who answers a config access, and who answers an address.
//!
//! Owns the config spaces, the map of decoded BARs and the addresses that are still free; runs on the vCPU that makes an
//! access. Functions can be plugged at any time, before the guest runs or while it does. Never trusts a BAR: one that a
//! guest moves out of the apertures or over another one is rolled back.
use super::{
    Function, Place, Space,
    config_space::{BARS, ConfigError, ConfigSpace, Identity},
};
use crate::{bus::Effect, lock::lock};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// A generic bridge from a host to PCI Express, by an identity that no driver has quirks for.
const HOST_BRIDGE: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: [0x06, 0, 0],
    subsystem_vendor: 0x1b36,
    subsystem: 0x1100,
};

/// Why a function could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// No device number is left.
    #[error("the PCI bus has room for {} functions; plug fewer devices", Place::COUNT)]
    Full,
    /// The aperture is used up.
    #[error("{size:#x} bytes of {space:?} do not fit into what is left of PCI's aperture; plug fewer devices")]
    Room {
        /// Which aperture.
        space: Space,
        /// What the BAR shows.
        size: u64,
    },
    /// The function's config space is a mistake.
    #[error("the function has an impossible config space")]
    Config(#[from] ConfigError),
}

/// The addresses that functions may decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apertures {
    /// Of memory.
    pub memory: Range<u64>,
    /// Of ports; empty where the machine has none.
    pub io: Range<u64>,
}

impl Apertures {
    /// The one in `space`.
    pub fn of(&self, space: Space) -> &Range<u64> {
        match space {
            Space::Memory => &self.memory,
            Space::Io => &self.io,
        }
    }

    fn of_mut(&mut self, space: Space) -> &mut Range<u64> {
        match space {
            Space::Memory => &mut self.memory,
            Space::Io => &mut self.io,
        }
    }
}

/// What the root keeps of one function's config.
struct Config {
    space: ConfigSpace,
    /// Where each BAR decodes now.
    decoded: [Option<Range<u64>>; BARS as usize],
    /// Where it decoded last, or would have if the guest had let it: where it returns to from a bad address.
    home: [Option<u64>; BARS as usize],
}

struct Slot {
    place: Place,
    function: Arc<dyn Function>,
    config: Mutex<Config>,
}

/// A BAR that decodes.
struct Window {
    space: Space,
    range: Range<u64>,
    slot: Arc<Slot>,
    bar: u8,
}

/// See the module.
pub struct Root {
    apertures: Apertures,
    /// What of the apertures nobody was given.
    free: Mutex<Apertures>,
    slots: RwLock<BTreeMap<Place, Arc<Slot>>>,
    /// By address, per space.
    windows: RwLock<Vec<Window>>,
}

impl Root {
    /// A bus with the host bridge alone.
    pub fn new(apertures: Apertures) -> Self {
        let bridge = Slot::new(Place::HOST_BRIDGE, Arc::new(HostBridge), ConfigSpace::new(&HOST_BRIDGE));
        Self {
            free: Mutex::new(apertures.clone()),
            apertures,
            slots: RwLock::new(BTreeMap::from([(Place::HOST_BRIDGE, Arc::new(bridge))])),
            windows: RwLock::default(),
        }
    }

    /// The addresses that functions may decode.
    pub fn apertures(&self) -> &Apertures {
        &self.apertures
    }

    /// Gives a function the next place, and addresses to its BARs, which the guest's driver turns on.
    pub fn plug(&self, mut space: ConfigSpace, function: Arc<dyn Function>) -> Result<Place, PlugError> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let place = (0..Place::COUNT)
            .filter_map(Place::of)
            .find(|place| !slots.contains_key(place));
        let place = place.ok_or(PlugError::Full)?;
        let bars: Vec<_> = space.bars().collect();
        let mut free = lock(&self.free);
        let mut left = free.clone();
        for (index, bar) in bars {
            let room = left.of_mut(bar.space);
            let start = room.start.checked_next_multiple_of(bar.size);
            let start = start.filter(|start| start.checked_add(bar.size).is_some_and(|end| end <= room.end));
            let start = start.ok_or(PlugError::Room {
                space: bar.space,
                size: bar.size,
            })?;
            space.place(index, start);
            room.start = start + bar.size;
        }
        *free = left;
        if place != place.first()
            && let Some(first) = slots.get(&place.first())
        {
            lock(&first.config).space.set_multifunction();
        }
        slots.insert(place, Arc::new(Slot::new(place, function, space)));
        Ok(place)
    }

    /// Serves a read of config space. Where no function is, it reads as ones, and so it does behind the 256 bytes that a
    /// function without PCI Express has: that is how Linux sees that there is no more, and asks no more.
    pub fn read_config(&self, function: u8, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(slot) = self.slot(function) else { return };
        split(offset, data.len(), |register, part| {
            let Some(data) = data.get_mut(part) else { return };
            if let Ok(register) = u8::try_from(register) {
                let mut config = lock(&slot.config);
                slot.function.read_config(&mut config.space, register, data);
            }
        });
    }

    /// Serves a write to config space.
    pub fn write_config(&self, function: u8, offset: u16, data: &[u8]) -> Effect {
        let Some(slot) = self.slot(function) else {
            return Effect::None;
        };
        let mut effect = Effect::None;
        split(offset, data.len(), |register, part| {
            let (Some(data), Ok(register)) = (data.get(part), u8::try_from(register)) else {
                return;
            };
            let mut config = lock(&slot.config);
            let asked = slot.function.write_config(&mut config.space, register, data);
            self.settle(&slot, &mut config, |bar| ConfigSpace::sizes(bar, register, data));
            if asked != Effect::None {
                effect = asked;
            }
        });
        effect
    }

    /// Serves a read in an aperture.
    pub fn read(&self, space: Space, address: u64, data: &mut [u8]) {
        if let Some((slot, bar, offset)) = self.find(space, address, data.len()) {
            slot.function.read_bar(bar, offset, data);
        }
    }

    /// Serves a write in an aperture.
    pub fn write(&self, space: Space, address: u64, data: &[u8]) -> Effect {
        match self.find(space, address, data.len()) {
            Some((slot, bar, offset)) => slot.function.write_bar(bar, offset, data),
            None => Effect::None,
        }
    }

    fn slot(&self, function: u8) -> Option<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(&Place(function)).cloned()
    }

    fn find(&self, space: Space, address: u64, len: usize) -> Option<(Arc<Slot>, u8, u64)> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let end = address.checked_add(len as u64)?;
        let window = windows
            .iter()
            .find(|window| window.space == space && window.range.start <= address && end <= window.range.end)?;
        Some((window.slot.clone(), window.bar, address - window.range.start))
    }

    /// Makes the map follow the config space after a write; `sizing` tells whether that write asked for a BAR's size.
    fn settle(&self, slot: &Arc<Slot>, config: &mut Config, sizing: impl Fn(u8) -> bool) {
        let bars: Vec<_> = config.space.bars().collect();
        for (index, bar) in bars {
            let before = config.decoded.get(usize::from(index)).cloned().flatten();
            let after = if config.space.decodes(bar.space) {
                match self.claim(slot, index, config.space.range(index), bar.space) {
                    // A guest that asks for the size puts an address back in a moment.
                    None if sizing(index) => None,
                    None => self.roll_back(slot, index, config, bar.space),
                    some => some,
                }
            } else {
                None
            };
            if after.is_none() {
                self.release(slot.place, index);
            }
            if before != after {
                slot.function.moved(index, after.clone());
            }
            config.set(index, after);
        }
    }

    /// Puts the last good address back, for a guest to read, and decodes there.
    fn roll_back(&self, slot: &Arc<Slot>, index: u8, config: &mut Config, space: Space) -> Option<Range<u64>> {
        let home = config.home.get(usize::from(index)).copied().flatten()?;
        log::debug!("BAR {index} of PCI function {:#x} cannot be there", slot.place.0);
        config.space.place(index, home);
        self.claim(slot, index, config.space.range(index), space)
    }

    /// Lets a BAR decode `range`, if that is within the aperture and nobody else's.
    fn claim(&self, slot: &Arc<Slot>, bar: u8, range: Option<Range<u64>>, space: Space) -> Option<Range<u64>> {
        let aperture = self.apertures.of(space);
        let range = range.filter(|range| aperture.start <= range.start && range.end <= aperture.end)?;
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        let is_this = |window: &Window| window.slot.place == slot.place && window.bar == bar;
        let taken = windows.iter().any(|window| {
            !is_this(window)
                && window.space == space
                && window.range.start < range.end
                && range.start < window.range.end
        });
        if taken {
            return None;
        }
        if let Some(window) = windows.iter_mut().find(|window| is_this(window)) {
            window.range = range.clone();
        } else {
            windows.push(Window {
                space,
                range: range.clone(),
                slot: slot.clone(),
                bar,
            });
        }
        Some(range)
    }

    fn release(&self, place: Place, bar: u8) {
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|window| window.slot.place != place || window.bar != bar);
    }
}

impl Slot {
    fn new(place: Place, function: Arc<dyn Function>, space: ConfigSpace) -> Self {
        let home = std::array::from_fn(|index| Some(space.range(u8::try_from(index).ok()?)?.start));
        let config = Mutex::new(Config {
            space,
            decoded: Default::default(),
            home,
        });
        Self {
            place,
            function,
            config,
        }
    }
}

impl Config {
    fn set(&mut self, index: u8, decoded: Option<Range<u64>>) {
        if let (Some(range), Some(home)) = (&decoded, self.home.get_mut(usize::from(index))) {
            *home = Some(range.start);
        }
        if let Some(slot) = self.decoded.get_mut(usize::from(index)) {
            *slot = decoded;
        }
    }
}

/// Takes an access apart at the borders of registers.
fn split(offset: u16, len: usize, mut access: impl FnMut(u16, Range<usize>)) {
    let mut done = 0;
    while done < len {
        let Some(at) = u16::try_from(done).ok().and_then(|done| offset.checked_add(done)) else {
            return;
        };
        let part = (len - done).min(4 - usize::from(at % 4));
        access(at, done..done + part);
        done += part;
    }
}

/// The function that every guest expects first. It decodes nothing: the apertures are described to the guest by others.
struct HostBridge;

impl Function for HostBridge {
    fn write_config(&self, _space: &mut ConfigSpace, _offset: u8, _data: &[u8]) -> Effect {
        Effect::None
    }
    fn read_bar(&self, _bar: u8, _offset: u64, _data: &mut [u8]) {}
    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }
    fn moved(&self, _bar: u8, _decoded: Option<Range<u64>>) {}
}

#[cfg(test)]
mod tests;
