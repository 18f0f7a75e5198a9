use super::*;

/// A root that goes away with the test.
struct Scratch(Store);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("coracle-state-{name}-{}", std::process::id()));
        Self(Store::new(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.root);
    }
}

fn record(id: &str) -> Record {
    Record {
        oci_version: "1.2.0".into(),
        id: id.into(),
        process: Some(ProcessId { pid: 7, start_time: 9 }),
        bundle: "/bundle".into(),
        rootfs: "/bundle/rootfs".into(),
        created: now(),
        owner: 0,
        cgroup: None,
        creating: false,
        annotations: BTreeMap::new(),
    }
}

#[test]
fn a_container_is_there_from_its_making_to_its_removal() {
    let scratch = Scratch::new("life");
    let store = &scratch.0;
    let folder = store.create("c1").unwrap();
    assert_eq!(
        store.create("c1").unwrap_err().to_string(),
        "container c1: already exists; delete it or choose another name"
    );
    folder.save(&record("c1")).unwrap();
    drop(folder);
    assert_eq!(store.ids().unwrap(), ["c1"]);
    let (folder, found) = store.open("c1").unwrap();
    assert_eq!(found.process, Some(ProcessId { pid: 7, start_time: 9 }));
    folder.remove().unwrap();
    assert_eq!(
        store.open("c1").unwrap_err().to_string(),
        "container c1: does not exist"
    );
    assert_eq!(store.ids().unwrap(), Vec::<String>::new());
}

#[test]
fn names_cannot_lead_out_of_the_root() {
    for id in ["", ".", "..", "a/b", "a b", &"x".repeat(256)] {
        assert!(check_id(id).is_err(), "{id:?}");
    }
    for id in ["a", "..a", "A_1+2-3.4"] {
        check_id(id).unwrap();
    }
}

#[test]
fn a_process_is_not_taken_for_a_later_one_of_the_same_number() {
    let me = ProcessId::of(rustix::process::getpid()).unwrap();
    assert!(me.is_alive());
    let earlier = ProcessId {
        start_time: me.start_time - 1,
        ..me
    };
    assert!(!earlier.is_alive());
}

#[test]
fn a_process_that_nobody_has_waited_for_has_ended() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let process = ProcessId::of(Pid::from_child(&child)).unwrap();
    while look_at(process.pid).is_some_and(|(state, _)| state != 'Z') {
        std::thread::yield_now();
    }
    assert!(!process.is_alive());
    child.wait().unwrap();
    assert!(!process.is_alive());
}

#[test]
fn times_are_written_as_rfc_3339_wants() {
    assert_eq!(rfc3339(Duration::from_secs(0)), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(rfc3339(Duration::new(951_782_399, 5)), "2000-02-28T23:59:59.000000005Z");
    assert_eq!(
        rfc3339(Duration::from_secs(951_782_400)),
        "2000-02-29T00:00:00.000000000Z"
    );
    assert_eq!(
        rfc3339(Duration::from_secs(1_798_761_599)),
        "2026-12-31T23:59:59.000000000Z"
    );
}

#[test]
fn the_state_is_told_as_the_specification_wants() {
    let told = record("c").to_oci(Status::Running);
    assert_eq!(told["status"], "running");
    assert_eq!(told["pid"], 7);
    assert_eq!(record("c").to_oci(Status::Stopped)["pid"], 0);
}
