use super::*;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const OTHER: Mac = [2, 0, 0, 0, 0, 2];
const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];
const ALL: Mac = [0xff; 6];

fn accepted(change: impl FnOnce(&mut Filter)) -> [bool; 4] {
    let mut filter = Filter::new(Some(OWN));
    filter.promiscuous = false;
    change(&mut filter);
    [OWN, OTHER, GROUP, ALL].map(|to| filter.accepts(to))
}

#[test]
fn a_driver_that_says_nothing_receives_everything() {
    let filter = Filter::new(None);
    assert!([OWN, OTHER, GROUP, ALL].iter().all(|to| filter.accepts(*to)));
}

#[test]
fn each_mode_concerns_its_own_kind_of_addresses() {
    assert_eq!(accepted(|_| ()), [true, false, false, true]);
    assert_eq!(accepted(|filter| filter.promiscuous = true), [true; 4]);
    assert_eq!(accepted(|filter| filter.unicast.all = true), [true, true, false, true]);
    assert_eq!(
        accepted(|filter| filter.multicast.all = true),
        [true, false, true, true]
    );
    assert_eq!(
        accepted(|filter| filter.unicast.none = true),
        [false, false, false, true]
    );
    assert_eq!(
        accepted(|filter| filter.no_broadcast = true),
        [true, false, false, false]
    );
    assert_eq!(accepted(|filter| filter.mac = Some(OTHER)), [false, true, false, true]);
    assert_eq!(accepted(|filter| filter.mac = None), [true, true, false, true]);
}

#[test]
fn listed_addresses_pass_and_all_do_if_too_many_were_listed() {
    let listed = |filter: &mut Filter| {
        filter.unicast.table = Some(vec![OTHER]);
        filter.multicast.table = Some(vec![GROUP]);
    };
    assert_eq!(accepted(listed), [true; 4]);
    assert_eq!(
        accepted(|filter| filter.unicast.table = None),
        [true, true, false, true]
    );
    assert_eq!(
        accepted(|filter| filter.multicast.table = None),
        [true, false, true, true]
    );
    let none = |filter: &mut Filter| {
        listed(filter);
        filter.multicast.none = true;
    };
    assert_eq!(accepted(none), [true, true, false, true]);
}
