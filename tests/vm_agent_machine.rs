//! Files, tar archives, mounts, network, clock, entropy and power of a guest by its agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod agent;
    pub mod run;
    pub mod tiny;
}
use coracle::{
    agent::{Agent, AgentError, Change, Dns, FileKind, Hosts, Link, Mount, Reason, Route, What, WriteOptions},
    event::Outcome,
};
use std::{
    io::{Read, Write},
    net::Shutdown,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use support::agent::{LIMIT, Machine, out, sh};

#[test]
fn an_agent_serves_its_machine() {
    let machine = Machine::start();
    let agent = &machine.agent;
    files_are_written_and_read(agent);
    folders_are_made_listed_and_removed(agent);
    a_root_is_not_left(agent);
    changes_are_told(agent);
    trees_go_out_and_in_as_tar(agent);
    a_hostile_archive_stays_in_its_folder(agent);
    file_systems_are_mounted_and_frozen(agent);
    the_network_is_set_up(agent);
    ports_are_found_and_reached(agent);
    clock_and_entropy_are_set(agent);
    a_lost_connection_is_dialed_again(machine);
}

fn reason<T>(result: Result<T, AgentError>) -> Option<Reason> {
    result.err().unwrap().reason()
}

fn files_are_written_and_read(agent: &Agent) {
    let files = agent.files();
    let bytes: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    files.write("/tmp/a", &bytes).unwrap();
    assert!(files.read("/tmp/a").unwrap() == bytes);
    let mut part = Vec::new();
    let mut download = files.open("/tmp/a", 100, Some(1000)).unwrap();
    download.read_to_end(&mut part).unwrap();
    assert_eq!(download.finish().unwrap(), 1000);
    assert_eq!(part, bytes[100..1100]);
    let options = WriteOptions {
        mode: Some(0o4750),
        offset: Some(10),
        new: false,
    };
    files.create("/tmp/a", options).unwrap().all(b"new").unwrap();
    let status = files.stat("/tmp/a", false).unwrap();
    assert_eq!(
        (status.kind, status.mode, status.size),
        (FileKind::File, 0o4750, 300_000)
    );
    assert_eq!(
        &files.read("/tmp/a").unwrap()[9..14],
        [bytes[9], b'n', b'e', b'w', bytes[13]]
    );
    let options = WriteOptions {
        new: true,
        ..WriteOptions::default()
    };
    assert_eq!(reason(files.create("/tmp/a", options)), Some(Reason::Busy));
    files.write("/tmp/empty", b"").unwrap();
    assert_eq!(files.read("/tmp/empty").unwrap(), b"");
    assert_eq!(reason(files.read("/tmp/none")), Some(Reason::NotFound));
    assert_eq!(reason(files.read("/tmp")), Some(Reason::Invalid));
    assert_eq!(reason(files.read("tmp/a")), Some(Reason::Invalid));
    assert!(files.read("/proc/self/status").unwrap().starts_with(b"Name:"));
}

fn folders_are_made_listed_and_removed(agent: &Agent) {
    let files = agent.files();
    files.mkdir("/tmp/t/u/v", Some(0o700), true).unwrap();
    files.mkdir("/tmp/t/u/v", None, true).unwrap();
    assert_eq!(reason(files.mkdir("/tmp/t", None, false)), Some(Reason::Busy));
    for n in 0..600 {
        files.write(&format!("/tmp/t/u/{n:03}"), b"x").unwrap();
    }
    out(agent, "ln -s /etc/none /tmp/t/u/link");
    let entries = files.list("/tmp/t/u").unwrap();
    assert_eq!(entries.len(), 602);
    assert_eq!((entries[0].name.as_str(), entries[0].status.size), ("000", 1));
    assert_eq!(entries[600].status.target.as_deref(), Some("/etc/none"));
    assert_eq!(
        (entries[601].status.kind, entries[601].status.mode),
        (FileKind::Folder, 0o700)
    );
    assert_eq!(reason(files.stat("/tmp/t/u/link", true)), Some(Reason::NotFound));
    files.rename("/tmp/t/u/000", "/tmp/t/first").unwrap();
    assert_eq!(files.read("/tmp/t/first").unwrap(), b"x");
    assert_eq!(reason(files.remove("/tmp/t", false)), Some(Reason::Busy));
    out(
        agent,
        "mkdir /tmp/safe; echo x > /tmp/safe/file; ln -s /tmp/safe /tmp/t/out",
    );
    files.remove("/tmp/t", true).unwrap();
    assert_eq!(reason(files.stat("/tmp/t", false)), Some(Reason::NotFound));
    assert_eq!(files.read("/tmp/safe/file").unwrap(), b"x\n");
    files.remove("/tmp/safe/file", false).unwrap();
}

fn a_root_is_not_left(agent: &Agent) {
    out(
        agent,
        "mkdir -p /tmp/root/etc; ln -s /etc /tmp/root/abs; ln -s ../../../.. /tmp/root/up; echo out > /etc/outside",
    );
    let files = agent.files_beneath("/tmp/root");
    files.write("/abs/inside", b"in").unwrap();
    assert_eq!(out(agent, "cat /tmp/root/etc/inside"), "in");
    assert_eq!(reason(files.read("/up/etc/outside")), Some(Reason::NotFound));
    assert_eq!(reason(files.read("/../etc/outside")), Some(Reason::NotFound));
    assert_eq!(files.read("/up/etc/inside").unwrap(), b"in");
}

fn changes_are_told(agent: &Agent) {
    let files = agent.files();
    files.mkdir("/tmp/watched", None, false).unwrap();
    let mut watch = files.watch("/tmp/watched").unwrap();
    watch.stream().set_read_timeout(Some(LIMIT)).unwrap();
    out(agent, "cd /tmp/watched; echo x > a; mv a b; mkdir c; rm b");
    let mut seen = Vec::new();
    while !seen.ends_with(&[(What::Removed, "b".to_owned())]) {
        match watch.next().unwrap().unwrap() {
            Change::Changed(change) => seen.push((change.what, change.name)),
            Change::Overflow(_) => panic!("so few changes fit"),
        }
    }
    let kinds = [
        What::Created,
        What::Modified,
        What::Written,
        What::MovedFrom,
        What::MovedTo,
        What::Created,
    ];
    let names = ["a", "a", "a", "a", "b", "c"];
    let expected: Vec<_> = kinds.into_iter().zip(names.map(str::to_owned)).collect();
    assert_eq!(seen[..6], expected);
    files.remove("/tmp/watched", true).unwrap();
    assert!(watch.any(|change| matches!(change, Ok(Change::Changed(change)) if change.what == What::Gone)));
    assert_eq!(reason(files.watch("/tmp/watched")), Some(Reason::NotFound));
}

fn trees_go_out_and_in_as_tar(agent: &Agent) {
    let long = "n".repeat(180);
    out(
        agent,
        &format!(
            "mkdir -p /tmp/tree/d/{long}; cd /tmp/tree; echo hello > a; chown 5:6 a; chmod 4751 a; ln a d/hard; \
             ln -s ../a d/soft; mkfifo p; mknod z c 1 5; head -c 100000 /dev/urandom > d/{long}/big; chmod 1777 d; \
             touch -d @1000000000 a; mkdir /tmp/again"
        ),
    );
    let files = agent.files();
    let archive = files.pack("/tmp/tree").unwrap().all().unwrap();
    // The guest's own tar reads it too.
    files.write("/tmp/t.tar", &archive).unwrap();
    let listed = out(agent, "tar tf /tmp/t.tar | sort");
    assert!(
        listed.contains("d/soft\n") && listed.contains(&format!("d/{long}/big\n")),
        "{listed}"
    );
    files.unpack("/tmp/again", true).unwrap().all(&archive).unwrap();
    let facts = "find . -exec stat -c '%n %A %u %g %t %h' {} \\; | sort; find . -type f -exec sha256sum {} \\; | sort; \
                 readlink d/soft; stat -c %Y a";
    let facts = |at: &str| out(agent, &format!("cd {at}; {facts}"));
    let (before, after) = (facts("/tmp/tree"), facts("/tmp/again"));
    assert_eq!(before, after);
    assert!(
        before.contains("./a -rwsr-x--x 5 6 0 2") && before.ends_with("../a\n1000000000\n"),
        "{before}"
    );
    // And what it writes is read.
    out(agent, "cd /tmp/tree; tar cf /tmp/t.tar .; rm -r /tmp/again/*");
    let theirs = files.read("/tmp/t.tar").unwrap();
    files.unpack("/tmp/again", true).unwrap().all(&theirs).unwrap();
    assert_eq!(facts("/tmp/again"), before);
    // A single file has its own name.
    let one = files.pack("/tmp/tree/a").unwrap().all().unwrap();
    files.mkdir("/tmp/one", None, false).unwrap();
    files.unpack("/tmp/one", false).unwrap().all(&one).unwrap();
    assert_eq!(out(agent, "stat -c '%A %u %s' /tmp/one/a"), "-rwsr-x--x 0 6\n");
}

/// An entry of an archive, as its format says: 512 bytes with a checksum.
fn entry(name: &str, kind: u8, target: &str, bytes: &[u8]) -> Vec<u8> {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(124, format!("{:011o}", bytes.len()).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut all = block.to_vec();
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn a_hostile_archive_stays_in_its_folder(agent: &Agent) {
    let files = agent.files();
    out(
        agent,
        "mkdir -p /tmp/target /tmp/prey; echo safe > /tmp/prey/file; echo safe > /tmp/victim",
    );
    let attacks: [(&str, Vec<Vec<u8>>); 8] = [
        ("names up", vec![entry("../victim", b'0', "", b"bad")]),
        ("names up within", vec![entry("x/../../victim", b'0', "", b"bad")]),
        (
            "a link, then through it",
            vec![entry("l", b'2', "/tmp/prey", b""), entry("l/file", b'0', "", b"bad")],
        ),
        (
            "a relative link, then through it",
            vec![entry("m", b'2', "../prey", b""), entry("m/file", b'0', "", b"bad")],
        ),
        ("a hard link up", vec![entry("h", b'1', "../victim", b"")]),
        (
            "a hard link through a link",
            vec![entry("k", b'2', "/tmp/prey", b""), entry("h", b'1', "k/file", b"")],
        ),
        (
            "a folder over a link",
            vec![entry("f", b'2', "/tmp/prey", b""), entry("f/", b'5', "", b"")],
        ),
        ("no checksum", vec![vec![b'x'; 1024]]),
    ];
    for (name, entries) in attacks {
        let result = files.unpack("/tmp/target", true).unwrap().all(&entries.concat());
        assert!(matches!(result, Err(AgentError::Refused(_))), "{name}: {result:?}");
        let prey = out(
            agent,
            "cat /tmp/prey/file /tmp/victim; ls /tmp/prey; stat -c %a%h /tmp/prey/file",
        );
        assert_eq!(prey, "safe\nsafe\nfile\n6441\n", "{name}");
    }
    // An absolute name, and a file over a link to another, are harmless.
    let harmless = [
        entry("/tmp/victim", b'0', "", b"in"),
        entry("v", b'2', "/tmp/victim", b""),
        entry("v", b'0', "", b"over"),
    ];
    files
        .unpack("/tmp/target", true)
        .unwrap()
        .all(&harmless.concat())
        .unwrap();
    assert_eq!(
        out(agent, "cat /tmp/victim /tmp/target/tmp/victim /tmp/target/v"),
        "safe\ninover"
    );
    let mut long = entry("x", b'L', "", b"");
    long[124..135].copy_from_slice(b"77777777777");
    let sum: u32 = long
        .iter()
        .enumerate()
        .map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) })
        .sum();
    long[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = files.unpack("/tmp/target", true).unwrap().all(&long).err().unwrap();
    assert!(error.to_string().contains("more than"), "{error}");
}

fn file_systems_are_mounted_and_frozen(agent: &Agent) {
    let mount = Mount {
        source: "tmpfs".into(),
        target: "/tmp/m/n".into(),
        kind: "tmpfs".into(),
        flags: vec!["noexec".into()],
        data: "size=1m".into(),
        mkdir: true,
    };
    agent.mount(mount.clone()).unwrap();
    assert!(out(agent, "grep /tmp/m/n /proc/mounts").contains("noexec,relatime,size=1024k"));
    agent.files().write("/tmp/m/n/a", b"x").unwrap();
    let bind = Mount {
        source: "/tmp/m/n".into(),
        target: "/tmp/m/b".into(),
        kind: String::new(),
        flags: vec!["bind".into(), "ro".into(), "private".into()],
        data: String::new(),
        mkdir: true,
    };
    agent.mount(bind).unwrap();
    assert_eq!(reason(agent.files().write("/tmp/m/b/a", b"y")), Some(Reason::Denied));
    agent.umount("/tmp/m/b", false).unwrap();
    let wrong = Mount {
        kind: "nofs".into(),
        ..mount
    };
    assert!(agent.mount(wrong).is_err());
    // A file system in memory has nothing to hold still, and says so.
    let error = agent.freeze("/tmp/m/n").err().unwrap();
    assert!(error.to_string().contains("freeze"), "{error}");
    agent.umount("/tmp/m/n", true).unwrap();
    assert_eq!(reason(agent.umount("/tmp/m/n", false)), Some(Reason::Invalid));
    agent.sync().unwrap();
}

fn the_network_is_set_up(agent: &Agent) {
    let find = |name: &str| {
        agent
            .links()
            .unwrap()
            .into_iter()
            .find(|link| link.name == name)
            .unwrap()
    };
    assert!(!find("lo").up);
    let link = Link {
        name: "lo".into(),
        up: Some(true),
        mtu: Some(9000),
        add: vec!["10.9.0.1/24".into(), "fd09::1/64".into()],
        remove: vec!["10.9.0.7/24".into()],
    };
    agent.set_link(link.clone()).unwrap();
    agent.set_link(link).unwrap();
    let lo = find("lo");
    assert!(lo.up && lo.carrier && lo.mtu == 9000, "{lo:?}");
    assert_eq!(
        lo.addresses
            .iter()
            .filter(|address| address.as_str() == "10.9.0.1/24")
            .count(),
        1
    );
    let route = Route {
        to: Some("10.10.0.0/16".into()),
        via: Some("10.9.0.2".into()),
        metric: Some(7),
        ..Route::default()
    };
    agent.set_route(route.clone()).unwrap();
    // Destination, router and flags as the kernel shows them.
    assert!(out(agent, "cat /proc/net/route").contains("lo\t00000A0A\t0200090A\t0003\t0\t0\t7\t0000FFFF"));
    agent.set_route(Route { remove: true, ..route }).unwrap();
    assert!(!out(agent, "cat /proc/net/route").contains("00000A0A"));
    assert_eq!(reason(agent.set_route(Route::default())), Some(Reason::Invalid));
    agent
        .set_dns(Dns {
            servers: vec!["10.9.0.53".into()],
            search: vec!["a.example".into()],
            options: vec!["ndots:2".into()],
            root: None,
        })
        .unwrap();
    let resolv = out(agent, "cat /etc/resolv.conf");
    assert_eq!(resolv, "nameserver 10.9.0.53\nsearch a.example\noptions ndots:2\n");
    agent
        .set_hosts(Hosts {
            entries: vec![("10.9.0.1".into(), vec!["box".into(), "box.example".into()])],
            name: Some("box".into()),
            root: None,
        })
        .unwrap();
    assert!(out(agent, "hostname; cat /etc/hosts").starts_with("box\n127.0.0.1 localhost\n"));
    assert!(out(agent, "cat /etc/hosts").ends_with("10.9.0.1 box box.example\n"));
}

fn ports_are_found_and_reached(agent: &Agent) {
    let server = agent
        .exec(&sh("exec nc -l -p 7000 -e sh -c 'read x; echo got $x; cat'"))
        .unwrap();
    let until = std::time::Instant::now() + LIMIT;
    while !agent.ports().unwrap().iter().any(|port| port.port == 7000) {
        assert!(std::time::Instant::now() < until, "nobody listens");
    }
    let mut stream = agent.connect(7000, None).unwrap();
    stream.write_all(b"1\nrest").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "got 1\nrest");
    assert_eq!(server.wait().unwrap().code, 0);
    assert!(agent.connect(7001, None).is_err());
}

fn clock_and_entropy_are_set(agent: &Agent) {
    out(agent, "date -s @1000000000");
    let clocks = agent.clocks().unwrap();
    assert_eq!(clocks.now / 10_000_000_000, 100_000_000);
    let clocks = agent.set_clock().unwrap();
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(Duration::from_nanos(clocks.now).abs_diff(here) < Duration::from_secs(30));
    assert!(clocks.boot > 0);
    agent.reseed().unwrap();
}

fn a_lost_connection_is_dialed_again(machine: Machine) {
    let process = machine.agent.exec(&sh("exec sleep 1000")).unwrap();
    let id = process.id();
    drop(process);
    drop(machine.agent);
    let agent = machine.listening.accept(LIMIT).unwrap();
    let known = agent.processes().unwrap();
    assert_eq!((known.len(), known[0].process), (1, id));
    agent.power_off(Duration::from_secs(5)).unwrap();
    let outcome = machine.vm.wait_timeout(LIMIT);
    assert!(matches!(outcome, Some(Outcome::PoweredOff)), "{outcome:?}");
    assert!(matches!(agent.sync(), Err(AgentError::Gone)));
}
