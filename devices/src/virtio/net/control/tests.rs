#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::{
    super::{super::testing::Driver, link::Link},
    *,
};

const ALL: u64 = u64::MAX;
const MAC: Mac = [2, 0, 0, 0, 0, 1];

fn switch(features: u64) -> Switch {
    Switch {
        shared: Arc::new(Shared::new(Some(MAC), Link::default())),
        config: Arc::new(ConfigSpace::new([0; config::SIZE], 0..0)),
        ports: Vec::new(),
        features,
        name: "test".into(),
    }
}

/// The status of one command, in as many pieces as `parts`.
fn status(switch: &Switch, parts: &[&[u8]]) -> u8 {
    let mut driver = Driver::new(16);
    let mut ring = driver.ring(0);
    let at = driver.add(parts, &[1]);
    ring.drain(|chain| Control::serve(chain, switch)).unwrap();
    assert_eq!(driver.used(), [(0, 1)]);
    driver.bytes(at[parts.len()], 1)[0]
}

fn list(addresses: &[Mac]) -> Vec<u8> {
    [&(addresses.len() as u32).to_le_bytes()[..], &addresses.concat()].concat()
}

#[test]
fn modes_set_their_flags() {
    let switch = switch(ALL);
    for code in 0..6 {
        assert_eq!(status(&switch, &[&[0, code], &[1]]), OK);
    }
    let filter = switch.shared.filter();
    assert!(filter.promiscuous && filter.no_broadcast);
    assert!(filter.unicast.all && filter.unicast.none && filter.multicast.all && filter.multicast.none);
    assert_eq!(status(&switch, &[&[0, 0, 0]]), OK);
    assert!(!switch.shared.filter().promiscuous);
    assert_eq!(switch.shared.version(), 7);
}

#[test]
fn addresses_are_taken_over() {
    let switch = switch(ALL);
    let other = [2, 0, 0, 0, 0, 9];
    assert_eq!(status(&switch, &[&[1, 1], &other]), OK);
    assert_eq!(
        (switch.shared.filter().mac, switch.config.get(config::MAC)),
        (Some(other), other)
    );
    let group = [1, 0, 0x5e, 0, 0, 1];
    assert_eq!(status(&switch, &[&[1, 0], &list(&[other]), &list(&[group, group])]), OK);
    let filter = switch.shared.filter();
    assert_eq!(
        (filter.unicast.table, filter.multicast.table),
        (Some(vec![other]), Some(vec![group, group]))
    );
    assert_eq!(
        status(&switch, &[&[1, 0], &list(&[]), &list(&[group; MAX_ADDRESSES + 1])]),
        OK
    );
    let filter = switch.shared.filter();
    assert_eq!((filter.unicast.table, filter.multicast.table), (Some(vec![]), None));
}

#[test]
fn offloads_are_those_that_were_negotiated() {
    let switch = switch(1 << feature::CTRL_GUEST_OFFLOADS | 1 << feature::GUEST_CSUM | 1 << feature::GUEST_TSO4);
    let ask = |bits: u64| status(&switch, &[&[5, 0], &bits.to_le_bytes()]);
    assert_eq!(ask(1 << feature::GUEST_CSUM), OK);
    assert_eq!(switch.shared.offloads(), libc::TUN_F_CSUM);
    assert_eq!(ask(0), OK);
    assert_eq!(switch.shared.offloads(), 0);
    assert_eq!(ask(1 << feature::GUEST_TSO6), ERROR);
    assert_eq!(ask(1 << feature::CTRL_GUEST_OFFLOADS), ERROR);
    assert_eq!(switch.shared.offloads(), 0);
}

#[test]
fn wrong_commands_are_refused_and_change_nothing() {
    let switch = switch(ALL);
    let (before, version) = (switch.shared.filter(), switch.shared.version());
    let huge = [&u32::MAX.to_le_bytes()[..], &[0; 8]].concat();
    for command in [
        &[][..],
        &[0],
        &[0, 0],
        &[0, 6, 1],
        &[1, 1, 2, 0, 0],
        &[1, 2, 0, 0, 0, 0, 0, 0],
        &[2, 0, 1, 0],
        &[3, 0],
        &[4, 0, 1],
        // No pair at all, and more than there are.
        &[4, 0, 0, 0],
        &[4, 0, 1, 0],
        &[5, 0, 0],
        &[5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xff, 0xff],
        &[&[1, 0][..], &huge].concat(),
        &[&[1, 0][..], &list(&[MAC])].concat(),
    ] {
        assert_eq!(status(&switch, &[command]), ERROR, "{command:?}");
    }
    assert_eq!((switch.shared.filter(), switch.shared.version()), (before, version));
}

#[test]
fn commands_that_were_not_negotiated_are_refused() {
    let switch = switch(1 << feature::CTRL_VQ);
    let tables = [&[1, 0][..], &list(&[]), &list(&[])].concat();
    for command in [
        &[0, 0, 1][..],
        &[0, 2, 1],
        &tables,
        &[1, 1, 2, 0, 0, 0, 0, 1],
        &[4, 0, 1, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(status(&switch, &[command]), ERROR, "{command:?}");
    }
    assert_eq!(switch.shared.version(), 0);
}

#[test]
fn a_command_without_room_for_its_status_breaks_the_ring() {
    let mut driver = Driver::new(4);
    let mut ring = driver.ring(0);
    driver.add(&[&[0, 0, 1]], &[]);
    let switch = switch(ALL);
    assert!(ring.drain(|chain| Control::serve(chain, &switch)).is_err());
}
