//! Which packets a driver wants to receive (Virtio 1.2 §5.1.6.5.1, §5.1.6.5.2). Pure.

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Addresses of each kind that a card knows; a driver that lists more gets all of that kind.
pub(super) const MAX_ADDRESSES: usize = 64;

/// The filter of one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// The card's own address, if it is known.
    pub(super) mac: Option<Mac>,
    /// Everything passes.
    pub(super) promiscuous: bool,
    pub(super) unicast: Rule,
    pub(super) multicast: Rule,
    pub(super) no_broadcast: bool,
}

/// What passes of one kind of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// All of them.
    pub(super) all: bool,
    /// None of them, unless all do.
    pub(super) none: bool,
    /// Those; `None` for more than a card knows.
    pub(super) table: Option<Vec<Mac>>,
}

impl Rule {
    fn accepts(&self, address: Mac) -> bool {
        let listed = || self.table.as_ref().is_none_or(|table| table.contains(&address));
        self.all || !self.none && listed()
    }
}

impl Filter {
    /// The filter of a card whose driver has said nothing: everything passes.
    pub(super) fn new(mac: Option<Mac>) -> Self {
        let rule = Rule {
            table: Some(Vec::new()),
            ..Rule::default()
        };
        Self {
            mac,
            promiscuous: true,
            unicast: rule.clone(),
            multicast: rule,
            no_broadcast: false,
        }
    }

    /// Whether a frame to this address passes.
    pub(super) fn accepts(&self, to: Mac) -> bool {
        if self.promiscuous {
            true
        } else if to == [0xff; 6] {
            !self.no_broadcast
        } else if to[0] & 1 != 0 {
            self.multicast.accepts(to)
        } else {
            !self.unicast.none && self.mac.is_none_or(|mac| mac == to) || self.unicast.accepts(to)
        }
    }
}

#[cfg(test)]
mod tests;
