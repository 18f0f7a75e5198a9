use super::*;
use crate::container::spec::Namespace;

fn with(namespaces: &[(NamespaceKind, Option<&str>)]) -> Linux {
    Linux {
        namespaces: namespaces
            .iter()
            .map(|(kind, path)| Namespace {
                kind: *kind,
                path: path.map(Into::into),
            })
            .collect(),
        ..Linux::default()
    }
}

fn refusal(linux: &Linux) -> String {
    Plan::new(linux).expect_err("makes no sense").to_string()
}

#[test]
fn new_namespaces_come_of_the_fork_but_for_cgroup_and_time() {
    let plan = Plan::new(&with(&[
        (NamespaceKind::Pid, None),
        (NamespaceKind::Mount, None),
        (NamespaceKind::Cgroup, None),
        (NamespaceKind::Time, None),
    ]))
    .unwrap();
    assert_eq!(plan.fork_flags(), libc::CLONE_NEWPID | libc::CLONE_NEWNS);
    assert!(plan.creates(NamespaceKind::Time) && !plan.has(NamespaceKind::Network) && !plan.joins_any());
}

#[test]
fn a_namespace_that_is_joined_has_to_be_one_of_its_kind() {
    let plan = Plan::new(&with(&[(NamespaceKind::Network, Some("/proc/self/ns/net"))])).unwrap();
    assert!(plan.joins(NamespaceKind::Network) && plan.fork_flags() == 0);
    assert_eq!(
        refusal(&with(&[(NamespaceKind::Network, Some("/proc/self/ns/uts"))])),
        "config.json: linux.namespaces[0].path: /proc/self/ns/uts is a namespace, but of another kind than \"net\""
    );
    assert_eq!(
        refusal(&with(&[(NamespaceKind::Network, Some("/proc/self/status"))])),
        "config.json: linux.namespaces[0].path: /proc/self/status is not a namespace"
    );
    assert_eq!(
        refusal(&with(&[(NamespaceKind::Network, Some("ns/net"))])),
        "config.json: linux.namespaces[0].path: ns/net is not absolute"
    );
}

#[test]
fn wishes_that_contradict_each_other_are_refused() {
    assert!(refusal(&with(&[(NamespaceKind::Pid, None), (NamespaceKind::Pid, None)])).contains("twice"));
    assert!(refusal(&with(&[(NamespaceKind::User, None)])).contains("needs both"));
    let mut linux = with(&[(NamespaceKind::Time, None)]);
    linux.time_offsets.insert("realtime".into(), TimeOffset::default());
    assert!(refusal(&linux).contains("linux.timeOffsets.realtime"));
    linux.namespaces.clear();
    assert!(refusal(&linux).contains("new time namespace only"));
    let mut linux = Linux::default();
    linux.uid_mappings.push(IdMapping {
        container_id: 0,
        host_id: 1000,
        size: 1,
    });
    assert!(refusal(&linux).contains("user namespace only"));
}
