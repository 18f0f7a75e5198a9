#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use std::time::{Duration, Instant};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("coracle-peer-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn patiently(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn two_meet_in_any_order_and_leave_no_socket_behind() {
    let folder = Folder::new("meet");
    let path = folder.0.join("s");
    for listener_first in [true, false] {
        let links = [Link::default(), Link::default()];
        let open = |side: usize| Peer::open("eth0", &path, side == 0, &links[side]).unwrap().1;
        let first = open(usize::from(!listener_first));
        assert!(!links[0].is_up() || !links[1].is_up());
        let second = open(usize::from(listener_first));
        patiently(|| links.iter().all(Link::is_up));
        assert!(path.exists());
        drop((first, second));
        assert!(!path.exists());
    }
}

#[test]
fn a_path_is_for_one_and_what_was_left_behind_is_replaced() {
    let folder = Folder::new("taken");
    let path = folder.0.join("s");
    drop(bind(&path).unwrap());
    assert!(path.exists());
    let link = Link::default();
    let kept = Peer::open("eth0", &path, true, &link).unwrap();
    let refused = Peer::open("eth1", &path, true, &link).err().unwrap();
    assert!(matches!(refused, NetError::Taken(_)));
    drop(kept);
    let nowhere = Peer::open("eth1", &folder.0.join("no/s"), true, &link).err().unwrap();
    assert!(matches!(nowhere, NetError::Listen { .. }));
}
