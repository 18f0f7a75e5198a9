//! The control queue (Virtio 1.2 §5.1.6.5): commands of the driver. Runs on an I/O thread.
use super::{
    super::{
        EventOps, Events, MutEventSubscriber,
        chain::Chain,
        config_space::ConfigSpace,
        memory::Buffers,
        queue::{Ring, RingError},
    },
    config, feature,
    filter::{MAX_ADDRESSES, Mac, Rule},
    offload,
    port::Port,
    shared::Shared,
};
use std::sync::Arc;

const OK: u8 = 0;
const ERROR: u8 = 1;

/// What commands act upon.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<ConfigSpace>,
    pub(super) ports: Vec<Port>,
    /// What the driver has accepted.
    pub(super) features: u64,
    /// The device's name, for log lines.
    pub(super) name: String,
}

impl Switch {
    /// Tells the ports what the driver takes unfinished. A host that knows fewer kinds finishes the others itself.
    pub(super) fn set_offloads(&self, bits: u32) -> bool {
        self.shared.set_offloads(bits);
        // The queues of an interface share this setting.
        let Some(port) = self.ports.first() else { return true };
        match port.set_offloads(bits) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("{}: the host cannot leave packets unfinished: {error}", self.name);
                false
            }
        }
    }

    /// Has the host use the first `active` ports only.
    pub(super) fn set_pairs(&self, active: u16) -> bool {
        self.shared.set_active(active);
        let mut done = true;
        for (index, port) in (0..).zip(&self.ports) {
            if let Err(error) = port.attach(index < active) {
                log::warn!("{}: cannot switch queue pair {index}: {error}", self.name);
                done = false;
            }
        }
        self.shared.wake();
        done
    }

    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// Obeys one command. `None` if it is not known, not negotiated, or wrong.
    fn obey(&self, command: &mut Buffers) -> Option<()> {
        let [class, code] = take(command)?;
        let done = match (class, code) {
            (0, 0..=5) => return self.receive_mode(code, take::<1>(command)?[0] != 0),
            (1, 0) if self.has(feature::CTRL_RX) => {
                let (unicast, multicast) = (table(command)?, table(command)?);
                self.shared.change_filter(|filter| {
                    filter.unicast.table = unicast;
                    filter.multicast.table = multicast;
                });
                true
            }
            (1, 1) if self.has(feature::CTRL_MAC_ADDR) => {
                let mac: Mac = take(command)?;
                self.shared.change_filter(|filter| filter.mac = Some(mac));
                self.config.set(config::MAC, &mac);
                true
            }
            (4, 0) if self.has(feature::MQ) => {
                let pairs = u16::from_le_bytes(take(command)?);
                (1..=self.ports.len()).contains(&usize::from(pairs)) && self.set_pairs(pairs)
            }
            (5, 0) if self.has(feature::CTRL_GUEST_OFFLOADS) => {
                let wanted = u64::from_le_bytes(take(command)?);
                // §5.1.6.5.6.2: only what was negotiated.
                wanted & !(self.features & offload::known()) == 0 && self.set_offloads(offload::accepted(wanted))
            }
            _ => false,
        };
        done.then_some(())
    }

    fn receive_mode(&self, code: u8, on: bool) -> Option<()> {
        let needed = if code < 2 {
            feature::CTRL_RX
        } else {
            feature::CTRL_RX_EXTRA
        };
        self.has(needed).then(|| {
            self.shared.change_filter(|filter| {
                let Rule { all: unicast, none, .. } = &mut filter.unicast;
                let flag = match code {
                    0 => &mut filter.promiscuous,
                    1 => &mut filter.multicast.all,
                    2 => unicast,
                    3 => &mut filter.multicast.none,
                    4 => none,
                    _ => &mut filter.no_broadcast,
                };
                *flag = on;
            });
        })
    }
}

fn take<const N: usize>(from: &mut Buffers) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    from.read(&mut bytes).then_some(bytes)
}

/// A list of addresses; the inner `None` if there are more than the card knows.
#[allow(
    clippy::option_option,
    reason = "the outer is a wrong command, the inner a rule's own meaning"
)]
fn table(from: &mut Buffers) -> Option<Option<Vec<Mac>>> {
    let count = u32::from_le_bytes(take(from)?) as usize;
    let bytes = count
        .checked_mul(size_of::<Mac>())
        .filter(|bytes| *bytes <= from.len())?;
    if count > MAX_ADDRESSES {
        from.skip(bytes);
        return Some(None);
    }
    (0..count).map(|_| take(from)).collect::<Option<_>>().map(Some)
}

/// The worker of the control queue.
#[derive(Debug)]
pub struct Control {
    ring: Ring,
    switch: Switch,
}

impl Control {
    pub(super) fn new(ring: Ring, switch: Switch) -> Self {
        Self { ring, switch }
    }

    pub(super) fn stop(self) -> Ring {
        self.ring
    }

    pub(super) fn serve(chain: &mut Chain, switch: &Switch) -> Result<u32, RingError> {
        let status = switch.obey(&mut chain.readable).map_or(ERROR, |()| OK);
        if chain.writable.write(&[status]) {
            Ok(1)
        } else {
            Err(RingError::Protocol("a command has no room for its status"))
        }
    }
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps) {
        self.ring.watch(ops, 0);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if let Err(error) = self.ring.drain(|chain| Self::serve(chain, &self.switch)) {
            self.ring.fail(&error);
            // An event that cannot be removed comes again, and is answered in the same way.
            let _ = ops.remove(events);
        }
    }
}

#[cfg(test)]
mod tests;
