//! The cable of a card: whether there is a link, as the driver sees it (Virtio 1.2 §5.1.4.2). It outlives reboots.
use super::{super::config_space::ConfigSpace, config};
use crate::lock::lock;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Plugs and unplugs the cable of a card; clones do so for the same card.
///
/// There is a link while the operator wants one and the other end is there. Without it no packet passes.
#[derive(Debug, Clone)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    up: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plugged: bool,
    carrier: bool,
    card: Option<Arc<ConfigSpace>>,
}

impl Default for Link {
    fn default() -> Self {
        let state = Mutex::new(State {
            plugged: true,
            carrier: true,
            card: None,
        });
        Self(Arc::new(Inner {
            up: AtomicBool::new(true),
            state,
        }))
    }
}

impl Link {
    /// Plugs the cable in, or out.
    pub fn set(&self, plugged: bool) {
        self.change(|state| state.plugged = plugged);
    }

    /// Says whether there is something at the other end.
    pub fn set_carrier(&self, carrier: bool) {
        self.change(|state| state.carrier = carrier);
    }

    /// Whether there is a link.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// From here on, a card shows this link.
    pub(super) fn connect(&self, card: &Arc<ConfigSpace>) {
        card.set(config::STATUS, &u16::from(self.is_up()).to_le_bytes());
        self.change(|state| state.card = Some(card.clone()));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.0.state);
        change(&mut state);
        let up = state.plugged && state.carrier;
        self.0.up.store(up, Ordering::Relaxed);
        let status = u16::from(up).to_le_bytes();
        if let Some(card) = &state.card
            && card.get(config::STATUS) != status
        {
            card.set(config::STATUS, &status);
        }
    }
}
