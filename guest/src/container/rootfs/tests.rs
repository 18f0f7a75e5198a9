//! Which calls are made, in which order, and what is said when one fails.
use super::*;
use crate::container::system::{CGROUP2_MAGIC, Meta, PROC_MAGIC, RAMFS_MAGIC, fake::Fake};
use serde_json::{Value, json};
use std::error::Error as _;

const ROOT: &str = "@/bundle/rootfs";

fn plan(config: Value) -> Result<Rootfs> {
    let spec = serde_json::from_value(config).unwrap();
    Rootfs::new(&spec, Path::new("/bundle"))
}

fn with_mounts(mounts: Value) -> Value {
    json!({ "root": { "path": "rootfs" }, "mounts": mounts, "linux": { "namespaces": [{ "type": "mount" }] } })
}

/// Makes all of it.
fn run(sys: &Fake, config: Value) -> Result<()> {
    plan(config)?.mount(sys)?.enter(sys)?.seal(sys)
}

/// What comes between the root and the devices.
fn mounting(sys: &Fake, config: Value) -> Result<Vec<String>> {
    plan(config)?.mount(sys)?;
    let calls = sys.calls();
    let start = calls
        .iter()
        .position(|call| call.starts_with("attach @/bundle/rootfs to /bundle/rootfs"))
        .unwrap();
    let end = calls
        .iter()
        .position(|call| call.starts_with("mknod @/bundle/rootfs/dev/null"))
        .unwrap();
    Ok(calls[start + 1..end - 1].to_vec())
}

fn refusal(config: Value) -> String {
    plan(config).unwrap_err().to_string()
}

fn chain(problem: &Error) -> String {
    format!(
        "{problem}: {}",
        problem.source().map(ToString::to_string).unwrap_or_default()
    )
}

fn everything() -> Value {
    json!({
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "ro"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup" },
            { "destination": "/data", "source": "data", "options": ["rbind", "rro", "rslave", "noatime"],
              "uidMappings": [{ "containerID": 0, "hostID": 9, "size": 1 }],
              "gidMappings": [{ "containerID": 0, "hostID": 8, "size": 2 }] },
        ],
        "linux": {
            "namespaces": [{ "type": "mount" }],
            "rootfsPropagation": "shared",
            "devices": [{ "type": "b", "path": "/dev/disk/a", "major": 8, "minor": 1, "fileMode": 0o640, "gid": 6 }],
            "maskedPaths": ["/proc/keys", "/proc/none", "/sys/firmware", "/sys/devices/x"],
            "readonlyPaths": ["/proc/sys"],
        },
    })
}

fn host() -> Fake {
    Fake::default()
        .without(&format!("{ROOT}/dev/pts"))
        .without(&format!("{ROOT}/proc/none"))
        .with_file(&format!("{ROOT}/proc/keys"), Meta::FILE | 0o400, (0, 0))
        .with_file_system("/sys/fs/cgroup", CGROUP2_MAGIC)
        .with_text("/proc/thread-self/cgroup", "0::/box\n")
}

#[test]
fn the_steps_are_in_their_order() {
    let sys = host();
    run(&sys, everything()).unwrap();
    let expected = include_str!("tests/everything.txt");
    assert_eq!(sys.calls().join("\n"), expected.trim_end());
}

#[test]
fn a_step_that_fails_is_the_last_one_and_names_itself() {
    let whole = host();
    run(&whole, everything()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..whole.count() {
        let sys = host().failing(number, libc::EIO);
        let problem = run(&sys, everything()).unwrap_err();
        assert_eq!(sys.count(), number + 1, "something was done after {problem}");
        let umasks = sys.calls().iter().filter(|call| call.starts_with("umask")).count();
        assert_eq!(umasks, 2, "the umask is another one after {problem}");
        let text = chain(&problem);
        assert!(
            text.starts_with("cannot ") && text.ends_with("Input/output error (os error 5)"),
            "{text}"
        );
        seen.insert(problem.to_string());
    }
    for expected in [
        "cannot mount the root /bundle/rootfs on itself",
        "cannot mount tmpfs on /dev with nosuid,mode=755,ro: set mode: the kernel says \"so it is\"",
        "cannot create the mount point /dev/pts",
        "cannot mount /bundle/data on /data with rbind,rro,rslave,noatime: map its ids, which not every file system knows how to",
        "cannot make the device /dev/disk/a",
        "cannot pivot to the container's root",
        "cannot mask /proc/keys",
        "cannot make /proc/sys read-only",
        "cannot make the root read-only",
    ] {
        assert!(seen.contains(expected), "{expected} is not in {seen:#?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_its_key() {
    let mount = |mount: Value| refusal(with_mounts(json!([mount])));
    let tmpfs = |destination: &str, options: &[&str]| {
        mount(json!({ "destination": destination, "type": "tmpfs", "options": options }))
    };
    let bind = |options: &[&str]| mount(json!({ "destination": "/d", "source": "s", "options": options }));
    for (text, expected) in [
        (refusal(json!({})), "root.path: is missing"),
        (tmpfs("/..", &[]), "mounts[0].destination: /.. is the root itself"),
        (tmpfs("/proc", &[]), "mounts[0].destination: /proc must be a procfs"),
        (
            tmpfs("/x/../proc/./sys/", &[]),
            "mounts[0].destination: /proc/sys is inside of procfs, where only these",
        ),
        (
            tmpfs("/d", &["remount"]),
            "mounts[0].options: \"remount\": a container has no mounts yet",
        ),
        (
            tmpfs("/d", &["iversion"]),
            "mounts[0].options: \"iversion\": leave it out",
        ),
        (
            bind(&["bind", "size=1"]),
            "mounts[0].options: \"size=1\" is of a whole file system",
        ),
        (
            bind(&["bind", "sync"]),
            "mounts[0].options: \"sync\" is of a whole file system",
        ),
        (
            bind(&["bind", "tmpcopyup"]),
            "mounts[0].options: \"tmpcopyup\" is for a tmpfs",
        ),
        (
            bind(&["bind", "idmap"]),
            "mount on /d: mapped ids need both uidMappings and gidMappings",
        ),
        (
            bind(&["bind", "idmap=uids=0-0-1"]),
            "mounts[0].options: \"idmap=uids=0-0-1\": mappings are not part",
        ),
        (
            bind(&["ro"]),
            "mounts[0].type: None is no file system; a bind mount has the option bind",
        ),
        (
            mount(json!({ "destination": "/d", "type": "bind" })),
            "mounts[0].source: is missing",
        ),
        (
            mount(json!({ "destination": "/d", "type": "proc", "options": ["tmpcopyup"] })),
            "\"tmpcopyup\" is for a tmpfs",
        ),
        (
            refusal(json!({ "root": { "path": "r" } })),
            "linux.namespaces: has no mount namespace",
        ),
        (
            refusal(json!({ "root": { "path": "r" }, "linux": { "rootfsPropagation": "ro" } })),
            "\"ro\" is none of shared",
        ),
        (
            refusal(json!({ "root": { "path": "r" }, "linux": { "mountLabel": "a:b" } })),
            "labels of SELinux",
        ),
    ] {
        assert!(text.contains(expected), "{text:?} has no {expected:?}");
    }
    let device = |device: Value| refusal(json!({ "root": { "path": "r" }, "linux": { "devices": [device] } }));
    assert!(device(json!({ "type": "x", "path": "/dev/a" })).contains("linux.devices[0].type: \"x\" is none of"));
    let text = device(json!({ "type": "c", "path": "/dev/a", "major": -1 }));
    assert!(text.contains("linux.devices[0].major: -1 is not from 0"), "{text}");
    assert!(device(json!({ "type": "p", "path": "/" })).contains("linux.devices[0].path: / names no file"));
}

#[test]
fn a_link_of_the_images_does_not_lead_around_the_rules() {
    let tmpfs = with_mounts(json!([{ "destination": "/trap/sys", "type": "tmpfs" }]));
    let sys = Fake::default().with_link(&format!("{ROOT}/trap"), "/proc");
    let sys = sys.with_file_system(&format!("{ROOT}/trap/sys"), PROC_MAGIC);
    let text = run(&sys, tmpfs).unwrap_err().to_string();
    assert!(text.contains("leads into procfs"), "{text}");
    assert!(!sys.calls().iter().any(|call| call.starts_with("fsopen")));

    let proc = with_mounts(json!([{ "destination": "/proc", "type": "proc" }]));
    let text = run(&Fake::default().with_link(&format!("{ROOT}/proc"), "/evil"), proc)
        .unwrap_err()
        .to_string();
    assert!(text.contains("which is not followed for proc"), "{text}");
}

#[test]
fn a_link_to_nothing_gets_its_target() {
    let sys = Fake::default()
        .with_link(&format!("{ROOT}/etc/resolv.conf"), "../run/../run/dns")
        .without(&format!("{ROOT}/run"))
        .with_file("/bundle/dns", Meta::FILE | 0o644, (0, 0));
    let root = sys.open(CWD, Path::new(ROOT), How::PLACE).unwrap();
    let made = path::make(&sys, root.as_fd(), Path::new("etc/resolv.conf"), path::Missing::File).unwrap();
    assert!(made.by_link);
    let calls = sys.calls();
    assert_eq!(calls.last().unwrap(), &format!("stat {ROOT}/run/dns"));
    assert!(calls.contains(&format!("mkdir {ROOT}/run 755")), "{calls:#?}");
}

#[test]
fn links_that_go_round_end() {
    let sys = Fake::default().with_link(&format!("{ROOT}/a"), "/a");
    let root = sys.open(CWD, Path::new(ROOT), How::PLACE).unwrap();
    let problem = path::make(&sys, root.as_fd(), Path::new("a"), path::Missing::Directory).unwrap_err();
    assert!(
        chain(&problem).contains("Too many levels of symbolic links"),
        "{}",
        chain(&problem)
    );
}

#[test]
fn a_bind_mount_keeps_what_its_source_has() {
    let bind = |options: &[&str]| with_mounts(json!([{ "destination": "/d", "source": "/s", "options": options }]));
    let sys = Fake::default();
    assert_eq!(
        mounting(&sys, bind(&["bind"])).unwrap(),
        [
            "open_tree /s",
            "open @/bundle/rootfs/d",
            "attach @/s to @/bundle/rootfs/d"
        ]
    );
    let sys = Fake::default();
    let calls = mounting(&sys, bind(&["rbind", "nosuid", "rw", "suid", "rnodev", "unbindable"])).unwrap();
    assert_eq!(
        calls[1..4],
        [
            "setattr @/s and below: +nodev",
            "setattr @/s: -rdonly -nosuid",
            "setattr @/s: unbindable"
        ]
    );
}

#[test]
fn a_tmpfs_is_like_what_it_covers_or_begins_with_it() {
    let tmpfs = |options: &[&str]| with_mounts(json!([{ "destination": "/t", "type": "tmpfs", "options": options }]));
    let sys = Fake::default().with_file(&format!("{ROOT}/t"), Meta::DIRECTORY | 0o1777, (0, 0));
    let calls = mounting(&sys, tmpfs(&["size=1m"])).unwrap();
    assert_eq!(calls[3..5], ["fsconfig tmpfs size=1m", "fsconfig tmpfs mode=1777"]);
    let calls = mounting(&Fake::default(), tmpfs(&["tmpcopyup", "sync"])).unwrap();
    assert_eq!(
        calls[1..],
        [
            "fsopen tmpfs",
            "fsconfig tmpfs sync",
            "fsmount tmpfs",
            "copy @/bundle/rootfs/t to tmpfs",
            "attach tmpfs to @/bundle/rootfs/t",
        ]
    );
}

#[test]
fn options_too_long_for_fsconfig_go_by_mount() {
    let lower = format!("lowerdir={}", ["/a"; 200].join(":"));
    let overlay = json!([{ "destination": "/o", "type": "overlay", "options": [lower, "nodev", "sync"] }]);
    let calls = mounting(&Fake::default(), with_mounts(overlay.clone())).unwrap();
    assert!(calls[1].starts_with("mount overlay none on @/bundle/rootfs/o MountFlags(NODEV | SYNCHRONOUS) lowerdir="));
    let mut spread = overlay;
    spread[0]["options"][2] = json!("shared");
    assert!(refusal(with_mounts(spread)).contains("an option longer than 255 bytes"));
}

#[test]
fn sources_are_prepared_with_the_runtimes_power() {
    let config = with_mounts(json!([
        { "destination": "/t", "type": "tmpfs" },
        { "destination": "/d", "source": "s", "options": ["rbind", "ridmap"] },
    ]));
    let mut config = config;
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    config["linux"] = json!({
        "namespaces": [{ "type": "user" }, { "type": "mount" }],
        "uidMappings": mapping,
        "gidMappings": mapping,
    });
    let outside = Fake::default();
    let mut rootfs = plan(config).unwrap();
    rootfs.open_sources(&outside).unwrap();
    assert_eq!(
        outside.calls(),
        [
            "open_tree /bundle/s and below",
            "setattr @/bundle/s and below: private",
            "userns 0-100000-65536 0-100000-65536",
            "setattr @/bundle/s and below: idmap",
        ]
    );
    let mut inside = Fake::default();
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        inside = inside.with_file(&format!("/dev/{name}"), Meta::CHARACTER | 0o666, (major, minor));
    }
    rootfs.mount(&inside).unwrap();
    let calls = inside.calls();
    assert!(
        !calls.iter().any(|call| call.starts_with("open_tree /bundle/s")),
        "{calls:#?}"
    );
    let null = calls.iter().position(|call| call == "open_tree /dev/null").unwrap();
    assert_eq!(
        calls[null + 1..null + 5],
        [
            "stat @/dev/null",
            "mknod @/bundle/rootfs/dev/null 100666 0:0",
            "open @/bundle/rootfs/dev/null",
            "attach @/dev/null to @/bundle/rootfs/dev/null",
        ]
    );
}

#[test]
fn a_runtime_without_power_leaves_sources_to_the_container() {
    let config = with_mounts(json!([{ "destination": "/d", "source": "s", "options": ["bind", "ro"] }]));
    let outside = Fake::default().refusing("open_tree", libc::EPERM);
    let mut rootfs = plan(config.clone()).unwrap();
    rootfs.open_sources(&outside).unwrap();
    assert_eq!(outside.calls(), ["open_tree /bundle/s"]);
    let inside = Fake::default();
    rootfs.mount(&inside).unwrap();
    assert!(
        inside
            .calls()
            .contains(&"attach @/bundle/s to @/bundle/rootfs/d".to_owned())
    );

    let outside = Fake::default().without("/bundle/s");
    let problem = plan(config).unwrap().open_sources(&outside).unwrap_err().to_string();
    assert_eq!(problem, "cannot mount /bundle/s on /d with bind,ro: open the source");
}

#[test]
fn devices_that_are_something_else_are_not_taken_for_devices() {
    let null = |mode, device| Fake::default().with_file(&format!("{ROOT}/dev/null"), mode, device);
    let config = || with_mounts(json!([]));
    run(&null(Meta::CHARACTER | 0o600, (1, 3)), config()).unwrap();
    let problem = run(&null(Meta::FILE | 0o666, (0, 0)), config())
        .unwrap_err()
        .to_string();
    assert!(
        problem.contains("device /dev/null: the image has something else at this path"),
        "{problem}"
    );
    let sys = Fake::default().with_file(&format!("{ROOT}/dev/ptmx"), Meta::CHARACTER | 0o666, (5, 2));
    run(&sys, config()).unwrap();
    assert!(sys.calls().contains(&format!("unlink {ROOT}/dev/ptmx")));
    let sys = Fake::default().with_link(&format!("{ROOT}/dev/ptmx"), "pts/ptmx");
    run(&sys, config()).unwrap();
    assert!(!sys.calls().contains(&format!("unlink {ROOT}/dev/ptmx")));
    // The host's /dev is left as it is, and what it has as null must be null to hide anything.
    let mut config = with_mounts(json!([{ "destination": "/dev/", "source": "/dev", "options": ["rbind"] }]));
    config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    let sys = null(Meta::CHARACTER | 0o666, (1, 5)).with_file(&format!("{ROOT}/proc/keys"), Meta::FILE, (0, 0));
    let problem = run(&sys, config).unwrap_err().to_string();
    assert!(
        problem.contains("/dev/null of the container is something else"),
        "{problem}"
    );
    assert!(
        !sys.calls()
            .iter()
            .any(|call| call.starts_with("mknod") || call.starts_with("symlink"))
    );
}

#[test]
fn devices_can_be_mounted_or_listed_instead() {
    let mut config = with_mounts(json!([{ "destination": "/dev/null", "source": "/x", "options": ["bind"] }]));
    config["linux"]["devices"] = json!([
        { "type": "c", "path": "/dev/zero", "major": 1, "minor": 5, "fileMode": 0o600 },
        { "type": "p", "path": "/pipe" },
    ]);
    let sys = Fake::default();
    run(&sys, config).unwrap();
    let made: Vec<_> = sys
        .calls()
        .into_iter()
        .filter(|call| call.starts_with("mknod"))
        .collect();
    let names = ["full", "random", "urandom", "tty"].map(|name| format!("/dev/{name} 20666"));
    let expected = names
        .iter()
        .map(String::as_str)
        .chain(["/dev/zero 20600", "/pipe 10666"]);
    assert!(
        made.iter().zip(expected).all(|(made, name)| made.contains(name)) && made.len() == 6,
        "{made:#?}"
    );
}

#[test]
fn the_console_is_the_terminal() {
    let sys = Fake::default().with_file("/dev/pts/0", Meta::CHARACTER | 0o620, (136, 0));
    let mounted = plan(with_mounts(json!([]))).unwrap().mount(&sys).unwrap();
    let terminal = sys.open(CWD, Path::new("/dev/pts/0"), How::PLACE).unwrap();
    mounted.console(&sys, terminal.as_fd()).unwrap();
    let calls = sys.calls();
    assert_eq!(
        calls[calls.len() - 4..],
        [
            "mknod @/bundle/rootfs/dev/console 100666 0:0",
            "open @/bundle/rootfs/dev/console",
            "open_tree /dev/pts/0",
            "attach @/dev/pts/0 to @/bundle/rootfs/dev/console",
        ]
    );
}

#[test]
fn an_initramfs_is_covered_and_not_left() {
    let mountinfo = "1 1 0:1 / / rw - rootfs rootfs rw\n\
        2 1 0:2 / /proc rw - proc proc rw\n3 1 0:3 / /sys rw - sysfs sysfs rw\n\
        4 3 0:4 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n5 1 0:5 / /bundle rw - tmpfs tmpfs rw\n\
        6 1 0:6 / /with\\040blank rw - tmpfs tmpfs rw\n7 5 0:7 / /bundle/rootfs/dev rw - tmpfs tmpfs rw\n";
    let sys = || Fake::default().with_text("/proc/thread-self/mountinfo", mountinfo);
    let root = |magic| sys().refusing("pivot_root", libc::EINVAL).with_file_system("/", magic);
    let initramfs = root(RAMFS_MAGIC);
    run(&initramfs, with_mounts(json!([]))).unwrap();
    let calls = initramfs.calls();
    let pivot = calls.iter().position(|call| call == "pivot_root").unwrap();
    let expected = [
        "read /proc/thread-self/mountinfo",
        "detach /proc",
        "detach /sys",
        "detach /with blank",
        "open /",
        "attach @/bundle/rootfs to /",
        "chroot",
        "chdir /",
    ];
    assert_eq!(calls[pivot + 3..], expected);
    let problem = run(&root(0xef53), with_mounts(json!([]))).unwrap_err();
    assert_eq!(
        chain(&problem),
        "cannot pivot to the container's root: Invalid argument (os error 22)"
    );

    let wished = sys();
    let rootfs = plan(with_mounts(json!([]))).unwrap().without_pivot(true);
    rootfs.mount(&wished).unwrap().enter(&wished).unwrap();
    let calls = wished.calls();
    assert!(!calls.contains(&"pivot_root".to_owned()));
    assert_eq!(calls[calls.len() - 8..], expected);
}

#[test]
fn mounts_spread_as_is_wished() {
    let first = |propagation: &str, options: &[&str]| {
        let mut config = with_mounts(json!([{ "destination": "/d", "source": "s", "options": options }]));
        config["linux"]["rootfsPropagation"] = json!(propagation);
        let sys = Fake::default();
        run(&sys, config).unwrap();
        let calls = sys.calls();
        let set = calls
            .iter()
            .filter(|call| call.starts_with("setattr /"))
            .cloned()
            .collect::<Vec<_>>();
        set.join(", ")
    };
    assert_eq!(first("", &["bind"]), "setattr / and below: private");
    assert_eq!(first("", &["bind", "rslave"]), "setattr / and below: slave");
    assert_eq!(first("slave", &["bind"]), "setattr / and below: slave");
    assert_eq!(
        first("runbindable", &["bind"]),
        "setattr / and below: private, setattr / and below: unbindable"
    );
    assert_eq!(
        first("rshared", &["bind"]),
        "setattr / and below: shared, setattr /bundle/rootfs: private, setattr / and below: slave, \
         setattr / and below: shared"
    );
}
