//! Makes root file systems with the kernel's own system calls: as root, each in a mount namespace of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests use it")]
#[path = "support/inside.rs"]
mod inside;

use coracle_guest::container::{Error, system::KernelCalls};
use inside::{Bundle, FIRST_ID, apart, apart_as_nobody, contents, mounts, possible};
use rustix::{
    fs::{CWD, RenameFlags, makedev, renameat_with},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
};
use serde_json::json;
use std::{
    error::Error as _,
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const DEFAULT: [&str; 7] = [
    "/proc proc rw,relatime proc rw",
    "/dev tmpfs rw,nosuid tmpfs rw,size=65536k,mode=755",
    "/dev/pts devpts rw,nosuid,noexec,relatime devpts rw,gid=5,mode=620,ptmxmode=666",
    "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime shm rw,size=65536k",
    "/dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime mqueue rw",
    "/sys sysfs ro,nosuid,nodev,noexec,relatime sysfs rw",
    "/sys/fs/cgroup",
];

fn is_read_only(path: &str) -> bool {
    fs::write(path, "x").is_err_and(|problem| problem.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

fn tmpfs(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).unwrap();
}

fn line(mounts: &[String], point: &str) -> String {
    let found = mounts.iter().rfind(|mount| mount.split(' ').next() == Some(point));
    found
        .unwrap_or_else(|| panic!("{point} is no mount of {mounts:#?}"))
        .clone()
}

/// None where the file system of the tests does not know mapped ids, as tmpfs before Linux 6.3.
fn with_mapped_ids<T>(made: Result<T, Error>) -> Option<T> {
    match made {
        Err(problem) if problem.to_string().contains(": map its ids") => {
            let tmpfs = rustix::fs::statfs(std::env::temp_dir()).unwrap().f_type == 0x0102_1994;
            assert!(tmpfs, "{problem}: {:?}", problem.source());
            eprintln!("skipped: the kernel's tmpfs does not map ids, and the folder of temporary files is one");
            None
        }
        made => Some(made.unwrap()),
    }
}

#[test]
fn a_default_container_has_its_mounts_devices_and_links() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let device = |name: &str| {
        let found = fs::metadata(format!("/dev/{name}")).unwrap();
        (found.rdev(), found.mode())
    };
    let look = || {
        let devices = ["null", "zero", "full", "random", "urandom", "tty"].map(device);
        let here = std::env::current_dir().unwrap();
        (
            mounts(),
            contents("/dev"),
            fs::read_link("/dev/stdin").unwrap(),
            contents("/"),
            devices,
            here,
        )
    };
    let (mounts, dev, stdin, top, devices, here) = bundle.enter(Bundle::default_config(), look).unwrap();
    let root = mounts[0].split(' ').collect::<Vec<_>>();
    assert!(root[0] == "/" && root[2].starts_with("ro"), "{mounts:#?}");
    let inside = |mount: &String| ["/proc", "/dev", "/sys"].iter().any(|folder| mount.starts_with(folder));
    assert!(mounts[1..].iter().all(inside), "{mounts:#?}");
    for (mount, expected) in mounts[1..].iter().zip(DEFAULT) {
        assert!(mount.starts_with(expected), "{expected}: {mounts:#?}");
    }
    assert_eq!(
        dev.join(" "),
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(stdin, Path::new("/proc/self/fd/0"));
    assert_eq!(top, ["dev", "proc", "sys"]);
    let numbers = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];
    let expected = numbers.map(|(major, minor)| (makedev(major, minor), 0o020_666));
    assert_eq!(devices, expected);
    assert_eq!(here, Path::new("/"));
}

#[test]
fn what_is_sealed_can_be_neither_read_nor_written() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    fs::write(bundle.image("secret"), "secret").unwrap();
    fs::create_dir_all(bundle.image("folder/below")).unwrap();
    let mut config = Bundle::default_config();
    config["linux"]["maskedPaths"] = json!(["/secret", "/folder", "/proc/keys", "/proc/fs", "/none/at/all"]);
    let look = || {
        let written = ["/x", "/proc/sys/kernel/domainname", "/sys/x", "/folder/x", "/proc/fs/x"].map(is_read_only);
        fs::write("/dev/x", "a folder that can be written").unwrap();
        fs::write("/dev/null", "x").unwrap();
        let read = ["/secret", "/proc/keys"].map(|path| fs::read_to_string(path).unwrap());
        (written, read, contents("/folder"), mounts())
    };
    let (written, read, folder, mounts) = bundle.enter(config, look).unwrap();
    assert_eq!(written, [true; 5]);
    assert_eq!(read, ["", ""]);
    assert!(folder.is_empty());
    assert!(line(&mounts, "/proc/sys").contains("proc ro,"), "{mounts:#?}");
    assert_eq!(fs::read_to_string(bundle.image("secret")).unwrap(), "secret");
}

#[test]
fn sysctls_can_be_written_until_it_is_sealed() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let path = "/proc/sys/kernel/domainname";
    let (before, after) = bundle
        .stages(Bundle::default_config(), |entered| {
            let open = || fs::OpenOptions::new().write(true).open(path).map(|_| ());
            let before = open();
            entered.seal(&KernelCalls).map(|()| (before, open()))
        })
        .unwrap();
    before.unwrap();
    assert_eq!(after.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn neither_links_nor_dots_of_the_image_lead_out_of_it() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let outside = bundle.path().join("outside");
    fs::create_dir_all(outside.join("a")).unwrap();
    fs::create_dir(outside.join("b")).unwrap();
    fs::write(bundle.path().join("file"), "of the bundle").unwrap();
    let up = "../".repeat(20);
    symlink(&outside, bundle.image("absolute")).unwrap();
    symlink(format!("{up}{}", outside.display()), bundle.image("relative")).unwrap();
    fs::create_dir(bundle.image("etc")).unwrap();
    symlink(format!("{up}run/dns/../resolv.conf"), bundle.image("etc/resolv.conf")).unwrap();
    let config = Bundle::mounts(json!([
        { "destination": "/absolute/a", "type": "tmpfs" },
        { "destination": "/relative/b", "type": "tmpfs" },
        { "destination": format!("/{up}/c"), "type": "tmpfs" },
        { "destination": "/etc/resolv.conf", "source": "file", "options": ["bind"] },
    ]));
    let (mounts, text) = bundle
        .enter(config, || (mounts(), fs::read_to_string("/etc/resolv.conf").unwrap()))
        .unwrap();
    let inside = outside.display();
    line(&mounts, &format!("{inside}/a"));
    line(&mounts, &format!("{inside}/b"));
    line(&mounts, "/c");
    line(&mounts, "/run/resolv.conf");
    assert_eq!(text, "of the bundle");
    assert_eq!(
        contents(&outside),
        ["a", "b"],
        "something was made outside of the image"
    );
}

#[test]
fn links_of_procfs_are_no_way_out() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    symlink("/proc/self/root", bundle.image("host")).unwrap();
    symlink("/proc", bundle.image("files")).unwrap();
    let beside_proc = |destination: &str, kind: &str| {
        let config = Bundle::mounts(json!([{ "destination": destination, "type": kind }]));
        let problem = bundle.enter(config, mounts).unwrap_err();
        format!(
            "{problem}: {}",
            problem.source().map(ToString::to_string).unwrap_or_default()
        )
    };
    let text = beside_proc("/host/tmp", "tmpfs");
    assert!(
        text.starts_with("cannot mount tmpfs on /host/tmp: open the mount point: Too many levels"),
        "{text}"
    );
    let text = beside_proc("/files/sys", "tmpfs");
    assert!(
        text.contains("mount on /files/sys: a symbolic link") && text.contains("leads into procfs"),
        "{text}"
    );
    let text = beside_proc("/files/self", "proc");
    assert!(text.contains("which is not followed for proc and sysfs"), "{text}");

    fs::remove_dir(bundle.image("proc")).unwrap();
    symlink("/host", bundle.image("proc")).unwrap();
    let config = Bundle::mounts(json!([]));
    let text = bundle.enter(config, mounts).unwrap_err().to_string();
    assert!(
        text.contains("which is not followed for proc and sysfs") || text.contains("open the mount point"),
        "{text}"
    );
}

#[test]
fn a_rename_at_the_right_moment_leads_nowhere_else() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let outside = bundle.path().join("outside");
    fs::create_dir_all(outside.join("x")).unwrap();
    fs::create_dir(outside.join("y")).unwrap();
    fs::write(outside.join("y/z"), "").unwrap();
    fs::create_dir(bundle.image("a")).unwrap();
    symlink(format!("{}{}", "../".repeat(20), outside.display()), bundle.image("b")).unwrap();
    let config = Bundle::mounts(json!([
        { "destination": "/a/x", "type": "tmpfs" },
        { "destination": "/a/y/z", "source": "/dev/null", "options": ["bind", "ro"] },
    ]));
    let below = |mount: &String| mount.starts_with(bundle.path().to_str().unwrap());
    let look = |_| mounts().into_iter().filter(below).collect::<Vec<_>>();
    let done = AtomicBool::new(false);
    let found: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (bundle.image("a"), bundle.image("b"));
            let start = Instant::now();
            while !done.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(30) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        // Some fail: what was made may be elsewhere by the next step.
        let found = (0..100)
            .filter_map(|_| bundle.outside(config.clone(), look).ok())
            .collect();
        done.store(true, Ordering::Relaxed);
        found
    });
    let image = bundle.image("");
    let image = image.to_str().unwrap().trim_end_matches('/');
    assert!(!found.is_empty());
    for mounts in found {
        assert!(
            mounts.len() > 2 && mounts.iter().all(|mount| mount.starts_with(image)),
            "{mounts:#?}"
        );
    }
    assert_eq!(
        contents(&outside),
        ["x", "y"],
        "something was made outside of the image"
    );
}

#[test]
fn a_bind_mount_is_read_only_by_itself_or_with_all_below_it() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    apart(|| {
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        tmpfs(&bundle.path().join("data"));
        tmpfs(&bundle.path().join("data/below"));
        let config = Bundle::mounts(json!([
            { "destination": "/own", "source": "data", "options": ["rbind", "ro", "noexec"] },
            { "destination": "/all", "source": "data", "options": ["rbind", "rro", "rnosuid"] },
            { "destination": "/one", "source": "data", "options": ["bind"] },
        ]));
        let look = || {
            let paths = [
                "/own/x",
                "/own/below/x",
                "/all/x",
                "/all/below/x",
                "/one/x",
                "/one/below/x",
            ];
            (paths.map(is_read_only), mounts())
        };
        let (read_only, mounts) = bundle.enter(config, look).unwrap();
        assert_eq!(read_only, [true, false, true, true, false, false]);
        assert!(line(&mounts, "/own").contains(" ro,noexec,relatime "));
        assert!(line(&mounts, "/all/below").contains(" ro,nosuid,relatime "));
        assert!(!mounts.iter().any(|mount| mount.starts_with("/one/below")));
    });
}

#[test]
fn ids_of_a_mount_are_mapped() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let data = bundle.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("roots"), "").unwrap();
    fs::write(data.join("others"), "").unwrap();
    chown(data.join("others"), Some(7), Some(8)).unwrap();
    let mapping = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 10 }]);
    let config = Bundle::mounts(json!([
        { "destination": "/d", "source": "data", "options": ["rbind", "ridmap"],
          "uidMappings": mapping(1000), "gidMappings": mapping(2000) },
    ]));
    let owner = |path: &str| fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
    let look = || (owner("/d/roots"), owner("/d/others"), mounts());
    let Some((roots, others, mounts)) = with_mapped_ids(bundle.enter(config, look)) else {
        return;
    };
    assert_eq!((roots, others), ((1000, 2000), (1007, 2008)));
    assert!(line(&mounts, "/d").contains("idmapped"), "{mounts:#?}");
}

#[test]
fn a_tmpfs_can_begin_with_what_it_covers() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let image = |path: &str| bundle.image(&format!("var/{path}"));
    fs::create_dir_all(image("a/b")).unwrap();
    fs::write(image("a/b/text"), "as it was").unwrap();
    fs::set_permissions(image("a/b/text"), fs::Permissions::from_mode(0o4751)).unwrap();
    chown(image("a/b"), Some(5), Some(6)).unwrap();
    symlink("/etc/shadow", image("link")).unwrap();
    fs::set_permissions(image(""), fs::Permissions::from_mode(0o1770)).unwrap();
    let config =
        Bundle::mounts(json!([{ "destination": "/var", "type": "tmpfs", "options": ["tmpcopyup", "size=1m"] }]));
    let look = || {
        fs::write("/var/new", "").unwrap();
        let text = fs::read_to_string("/var/a/b/text").unwrap();
        let modes = ["/var", "/var/a/b/text"].map(|path| fs::metadata(path).unwrap().mode() & 0o7777);
        let owner = fs::metadata("/var/a/b")
            .map(|found| (found.uid(), found.gid()))
            .unwrap();
        (text, modes, owner, fs::read_link("/var/link").unwrap())
    };
    let (text, modes, owner, link) = bundle.enter(config, look).unwrap();
    assert_eq!((text.as_str(), modes, owner), ("as it was", [0o1770, 0o4751], (5, 6)));
    assert_eq!(link, Path::new("/etc/shadow"));
    assert!(!image("new").exists());
}

#[test]
fn an_error_names_the_mount_and_the_option() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let config = Bundle::mounts(json!([{ "destination": "/t", "type": "tmpfs", "options": ["nodev", "size=64x"] }]));
    let problem = bundle.enter(config, || ()).unwrap_err();
    assert_eq!(
        problem.to_string(),
        "cannot mount tmpfs on /t with nodev,size=64x: set size: the kernel says \"tmpfs: Bad value for 'size'\""
    );
    let config = Bundle::mounts(json!([{ "destination": "/t", "source": "none/here", "options": ["bind"] }]));
    let problem = bundle.enter(config, || ()).unwrap_err();
    let text = format!(
        "cannot mount {}/none/here on /t with bind: open the source",
        bundle.path().display()
    );
    assert_eq!(problem.to_string(), text);
}

#[test]
fn overlays_are_mounted_however_long_their_options_are() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let layers: Vec<_> = (0..12)
        .map(|number| bundle.path().join(format!("layer-{number}")))
        .collect();
    for (number, layer) in layers.iter().enumerate() {
        fs::create_dir(layer).unwrap();
        fs::write(layer.join(number.to_string()), "").unwrap();
    }
    let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let lower = format!("lowerdir={}", lower.join(":"));
    assert!(lower.len() > 300);
    let short = format!("lowerdir={}:{}", layers[0].display(), layers[1].display());
    let config = Bundle::mounts(json!([
        { "destination": "/long", "type": "overlay", "source": "overlay", "options": [lower, "nodev"] },
        { "destination": "/short", "type": "overlay", "source": "overlay", "options": [short, "ro"] },
    ]));
    let (long, short, mounts) = bundle
        .enter(config, || (contents("/long"), contents("/short"), mounts()))
        .unwrap();
    assert_eq!((long.len(), short), (12, vec!["0".to_owned(), "1".to_owned()]));
    assert!(
        line(&mounts, "/long").contains("overlay rw,nodev,relatime overlay"),
        "{mounts:#?}"
    );
    assert!(
        line(&mounts, "/short").contains("overlay ro,relatime overlay ro"),
        "{mounts:#?}"
    );
}

#[test]
fn mounts_of_the_host_arrive_only_where_they_are_wanted() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    apart(|| {
        let data = bundle.path().join("data");
        tmpfs(&data);
        mount_change(&data, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(data.join("late")).unwrap();
        for (options, propagation, expected) in [
            (vec!["rbind"], "", false),
            (vec!["rbind", "rprivate"], "rslave", false),
            (vec!["rbind", "rslave"], "", true),
            (vec!["rbind"], "rslave", true),
            (vec!["rbind"], "rshared", true),
        ] {
            let mut config = Bundle::mounts(json!([{ "destination": "/d", "source": "data", "options": options }]));
            config["linux"]["rootfsPropagation"] = json!(propagation);
            let before = mounts().len();
            let (ready, go) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
            let seen = std::thread::scope(|scope| {
                let container = scope.spawn(|| {
                    bundle.enter(config, || {
                        ready.wait();
                        go.wait();
                        mounts().iter().any(|mount| mount.starts_with("/d/late "))
                    })
                });
                ready.wait();
                assert_eq!(
                    mounts().len(),
                    before,
                    "the container's mounts show on the host with {propagation}"
                );
                tmpfs(&data.join("late"));
                go.wait();
                container.join().unwrap().unwrap()
            });
            assert_eq!(seen, expected, "{options:?} {propagation:?}");
            rustix::mount::unmount(data.join("late"), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    });
}

#[test]
fn without_pivot_nothing_of_the_host_is_left_either() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let (mounts, root) = apart(|| {
        let rootfs = bundle.rootfs(Bundle::default_config())?.without_pivot(true);
        rootfs.mount(&KernelCalls)?.enter(&KernelCalls)?.seal(&KernelCalls)?;
        Ok::<_, Error>((mounts(), contents("/../../..")))
    })
    .unwrap();
    assert_eq!(root, ["dev", "proc", "sys"]);
    for (mount, expected) in mounts[1..].iter().zip(DEFAULT) {
        assert!(mount.starts_with(expected), "{expected}: {mounts:#?}");
    }
}

#[test]
fn the_console_is_a_terminal_of_the_containers() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    let (device, echoed) = bundle
        .stages(Bundle::default_config(), |entered| {
            let host = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
            unlockpt(&host).unwrap();
            let terminal = ioctl_tiocgptpeer(&host, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            entered.console(&KernelCalls, std::os::fd::AsFd::as_fd(&terminal))?;
            fs::write("/dev/console", "hello\n").unwrap();
            let mut echoed = [0; 7];
            (&host).read_exact(&mut echoed).unwrap();
            Ok((fs::metadata("/dev/console").unwrap().rdev(), echoed))
        })
        .unwrap();
    assert_eq!(device, makedev(136, 0));
    assert_eq!(&echoed, b"hello\r\n");
}

#[test]
fn a_user_namespace_gets_the_hosts_devices_and_sources_that_it_cannot_reach() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    chown(bundle.image(""), Some(FIRST_ID), Some(FIRST_ID)).unwrap();
    let data = bundle.path().join("private/data");
    fs::create_dir_all(&data).unwrap();
    fs::set_permissions(data.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    let mapping = json!([{ "containerID": 0, "hostID": FIRST_ID, "size": 65536 }]);
    let config = json!({
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/dev", "type": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"] },
            { "destination": "/data", "source": "private/data", "options": ["bind"] },
        ],
        "linux": {
            "namespaces": [{ "type": "user" }, { "type": "mount" }],
            "uidMappings": mapping, "gidMappings": mapping, "readonlyPaths": ["/data"],
        },
    });
    let mut rootfs = bundle.rootfs(config.clone()).unwrap();
    rootfs.open_sources(&KernelCalls).unwrap();
    let said = apart_as_nobody(|| {
        let entered = rootfs
            .mount(&KernelCalls)
            .and_then(|mounted| mounted.enter(&KernelCalls));
        if let Err(problem) = entered.and_then(|entered| entered.seal(&KernelCalls)) {
            return format!("{problem}: {:?}", problem.source());
        }
        fs::write("/dev/null", "x").unwrap();
        let null = fs::metadata("/dev/null").unwrap().rdev();
        let owner = |path: &str| fs::metadata(path).unwrap().uid();
        format!(
            "{} {} {}",
            null == makedev(1, 3),
            owner("/data"),
            is_read_only("/data/x")
        )
    });
    assert_eq!(said, "true 65534 true");

    // Without the runtime's help they stay out of reach, and the error says which.
    let rootfs = bundle.rootfs(config).unwrap();
    let said = apart_as_nobody(|| rootfs.mount(&KernelCalls).unwrap_err().to_string());
    let expected = format!("cannot mount {} on /data with bind: open the source", data.display());
    assert_eq!(said, expected);
}

#[test]
fn a_user_namespace_owns_what_is_mapped_for_it() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    chown(bundle.image(""), Some(FIRST_ID), Some(FIRST_ID)).unwrap();
    fs::create_dir(bundle.path().join("data")).unwrap();
    let mapping = json!([{ "containerID": 0, "hostID": FIRST_ID, "size": 65536 }]);
    let mut config = Bundle::mounts(json!([{ "destination": "/d", "source": "data", "options": ["rbind", "ridmap"] }]));
    config["mounts"].as_array_mut().unwrap().remove(0);
    config["linux"] = json!({ "namespaces": [{ "type": "user" }, { "type": "mount" }], "uidMappings": mapping, "gidMappings": mapping });
    let mut rootfs = bundle.rootfs(config).unwrap();
    if with_mapped_ids(rootfs.open_sources(&KernelCalls)).is_none() {
        return;
    }
    let said = apart_as_nobody(|| {
        rootfs
            .mount(&KernelCalls)
            .unwrap()
            .enter(&KernelCalls)
            .unwrap()
            .seal(&KernelCalls)
            .unwrap();
        fs::write("/d/new", "").unwrap();
        format!(
            "{} {}",
            fs::metadata("/d").unwrap().uid(),
            fs::metadata("/d/new").unwrap().uid()
        )
    });
    assert_eq!(said, "0 0");
    assert_eq!(
        fs::metadata(bundle.path().join("data/new")).unwrap().uid(),
        0,
        "it is not mapped back"
    );
}

#[test]
fn what_the_host_has_locked_stays_locked() {
    if !possible() {
        return;
    }
    let bundle = Bundle::new();
    apart(|| {
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        let path = bundle.path().join("data");
        fs::create_dir(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None).unwrap();
        chown(bundle.image(""), Some(FIRST_ID), Some(FIRST_ID)).unwrap();
        let with = |options: &[&str]| {
            let mut config = Bundle::mounts(json!([{ "destination": "/d", "source": "data", "options": options }]));
            config["mounts"].as_array_mut().unwrap().remove(0);
            config["linux"] = json!({ "namespaces": [{ "type": "user" }, { "type": "mount" }] });
            let rootfs = bundle.rootfs(config).unwrap();
            apart_as_nobody(|| match rootfs.mount(&KernelCalls) {
                Ok(_) => line(&mounts(), bundle.image("d").to_str().unwrap()),
                Err(problem) => problem.to_string(),
            })
        };
        let kept = with(&["rbind", "ro", "rw", "ro"]);
        assert!(kept.contains(" tmpfs ro,nosuid,nodev,relatime "), "{kept}");
        let refused = with(&["rbind", "suid"]);
        assert!(
            refused.ends_with("on /d with rbind,suid: set its attributes"),
            "{refused}"
        );
    });
}
