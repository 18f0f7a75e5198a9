#![allow(
    unsafe_code,
    reason = "a process that starts in a cgroup is made by the bare system call"
)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
use super::{
    Cgroup, Hierarchy, hierarchy, place,
    plan::{Absent, plan, weight_of_shares},
    stats::{DiskEntry, Stats, parse_disks, parse_pressure},
};
use crate::container::spec::{Linux, Resources};
use serde_json::json;
use std::{
    fs,
    io::Write,
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

fn resources(given: serde_json::Value) -> Resources {
    serde_json::from_value(given).unwrap()
}

/// The first file of each setting and its value.
fn written(given: serde_json::Value) -> Vec<(String, String)> {
    let settings = plan(&resources(given)).unwrap();
    settings.into_iter().map(|it| it.files[0].clone()).collect()
}

fn check(given: serde_json::Value, expected: &[(&str, &str)]) {
    let written = written(given.clone());
    let written: Vec<_> = written
        .iter()
        .map(|(file, value)| (file.as_str(), value.as_str()))
        .collect();
    assert_eq!(written, expected, "{given}");
}

fn refusal(given: serde_json::Value) -> String {
    plan(&resources(given)).unwrap_err().to_string()
}

#[test]
fn memory_and_swap_are_told_apart() {
    let memory = |memory| json!({"memory": memory});
    check(
        memory(json!({"limit": 100, "swap": 150, "reservation": 50})),
        &[("memory.swap.max", "50"), ("memory.max", "100"), ("memory.low", "50")],
    );
    check(
        memory(json!({"limit": 100, "swap": 100})),
        &[("memory.swap.max", "0"), ("memory.max", "100")],
    );
    check(
        memory(json!({"limit": 100, "swap": -1})),
        &[("memory.swap.max", "max"), ("memory.max", "100")],
    );
    check(
        memory(json!({"limit": -1})),
        &[("memory.swap.max", "max"), ("memory.max", "max")],
    );
    check(
        memory(json!({"limit": -1, "swap": 70})),
        &[("memory.swap.max", "70"), ("memory.max", "max")],
    );
    check(memory(json!({"limit": 100})), &[("memory.max", "100")]);
    check(
        memory(json!({"limit": 0, "swap": 0, "kernel": 0, "disableOOMKiller": false, "useHierarchy": true})),
        &[],
    );
    assert!(refusal(memory(json!({"swap": 100}))).contains("linux.resources.memory.swap: is memory and swap"));
    assert!(refusal(memory(json!({"limit": 100, "swap": 99}))).contains("99 is memory and swap"));
    assert!(refusal(memory(json!({"limit": -2}))).contains("memory.limit: -2"));
    // Where there is no swap, forbidding it is done; allowing some is not.
    let absent = |swap| plan(&resources(memory(json!({"limit": 100, "swap": swap})))).unwrap()[0].absent;
    assert_eq!(
        [absent(100), absent(-1), absent(101)],
        [Absent::Fine, Absent::Fine, Absent::Refused]
    );
}

#[test]
fn cpu_files_are_written_in_an_order_that_holds() {
    let cpu = |cpu| json!({"cpu": cpu});
    check(
        cpu(json!({"shares": 1024, "quota": 50_000, "period": 100_000})),
        &[("cpu.weight", "100"), ("cpu.max", "50000 100000")],
    );
    check(cpu(json!({"quota": 50_000})), &[("cpu.max", "50000")]);
    check(cpu(json!({"quota": -1})), &[("cpu.max", "max")]);
    check(cpu(json!({"period": 20_000})), &[("cpu.max", "max 20000")]);
    check(
        cpu(json!({"quota": 50_000, "burst": 10_000})),
        &[("cpu.max.burst", "0"), ("cpu.max", "50000"), ("cpu.max.burst", "10000")],
    );
    check(cpu(json!({"burst": 10_000})), &[("cpu.max.burst", "10000")]);
    check(
        cpu(json!({"idle": 1, "shares": 2})),
        &[("cpu.weight", "1"), ("cpu.idle", "1")],
    );
    check(
        cpu(json!({"idle": 0, "shares": 2})),
        &[("cpu.idle", "0"), ("cpu.weight", "1")],
    );
    check(
        cpu(json!({"cpus": "0-1", "mems": "0"})),
        &[("cpuset.cpus", "0-1"), ("cpuset.mems", "0")],
    );
    assert!(refusal(cpu(json!({"idle": 2}))).contains("linux.resources.cpu.idle: 2"));
}

#[test]
fn weights_lead_through_what_both_scales_have_in_common() {
    for (shares, weight) in [
        (0, 1),
        (2, 1),
        (3, 2),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    let all: Vec<_> = (2..=262_144).step_by(97).map(weight_of_shares).collect();
    assert!(all.is_sorted() && all.iter().all(|weight| (1..=10_000).contains(weight)));
}

#[test]
fn disks_take_the_scheduler_that_is_there() {
    let settings = plan(&resources(json!({"blockIO": {"weight": 10, "weightDevice": [
        {"major": 8, "minor": 16, "weight": 1000}]}})))
    .unwrap();
    let files: Vec<_> = settings
        .iter()
        .flat_map(|it| &it.files)
        .map(|(file, value)| (&**file, &**value))
        .collect();
    assert_eq!(
        files,
        [
            ("io.bfq.weight", "10"),
            ("io.weight", "1"),
            ("io.bfq.weight", "8:16 1000"),
            ("io.weight", "8:16 10000")
        ]
    );
    let rate = |rate: u64| json!([{"major": 8, "minor": 0, "rate": rate}]);
    check(
        json!({"blockIO": {"throttleReadBpsDevice": rate(1), "throttleWriteBpsDevice": rate(2),
            "throttleReadIOPSDevice": rate(3), "throttleWriteIOPSDevice": rate(0)}}),
        &[
            ("io.max", "8:0 rbps=1"),
            ("io.max", "8:0 wbps=2"),
            ("io.max", "8:0 riops=3"),
            ("io.max", "8:0 wiops=max"),
        ],
    );
    assert!(refusal(json!({"blockIO": {"weight": 9}})).contains("blockIO.weight: 9 is not within"));
}

#[test]
fn everything_else_has_its_file_and_unified_comes_last() {
    check(
        json!({"unified": {"memory.high": "7", "io.max": "8:0 rbps=1\n8:16 rbps=2"},
            "pids": {"limit": 5}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}, "mlx4_0": {"hcaObjects": 1}}, "network": {}}),
        &[
            ("pids.max", "5"),
            ("hugetlb.2MB.max", "4194304"),
            ("hugetlb.2MB.rsvd.max", "4194304"),
            ("rdma.max", "mlx4_0 hca_object=1"),
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
            ("io.max", "8:0 rbps=1"),
            ("io.max", "8:16 rbps=2"),
            ("memory.high", "7"),
        ],
    );
    check(json!({"pids": {"limit": -1}}), &[("pids.max", "max")]);
    check(json!({"pids": {"limit": 0}}), &[("pids.max", "1")]);
    check(json!({}), &[]);
}

#[test]
fn what_v2_has_not_and_what_is_not_the_containers_is_refused() {
    for (given, expected) in [
        (
            json!({"memory": {"swappiness": 60}}),
            "memory.swappiness: is of cgroup v1",
        ),
        (json!({"memory": {"kernelTCP": 1}}), "memory.kernelTCP: is of cgroup v1"),
        (json!({"memory": {"kernel": 1}}), "memory.kernel: is of cgroup v1"),
        (
            json!({"memory": {"disableOOMKiller": true}}),
            "memory.disableOOMKiller: is of cgroup v1",
        ),
        (
            json!({"cpu": {"realtimeRuntime": 5}}),
            "cpu.realtimeRuntime: is of cgroup v1",
        ),
        (json!({"network": {"classID": 1}}), "network: is of cgroup v1"),
        (
            json!({"blockIO": {"leafWeight": 10}}),
            "blockIO.leafWeight: is of cgroup v1",
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}),
            "hugepageLimits[0]: \"../x\"",
        ),
        (json!({"unified": {"../memory.max": "1"}}), "is no file of a cgroup"),
        (json!({"unified": {"memory": "1"}}), "is no file of a cgroup"),
        (json!({"unified": {"cgroup.procs": "1"}}), "belongs to the runtime"),
    ] {
        let said = refusal(given);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn the_hierarchy_is_read_off_the_mounts() {
    let of = Hierarchy::of_mounts;
    let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
    let v1 = "33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
    let hybrid = "34 30 0:30 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
    let elsewhere = "28 23 0:31 / /mnt/a\\040b rw - cgroup2 none rw\n";
    let partial = "27 23 0:26 /lxc/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    assert_eq!(of(v2), Hierarchy::Unified("/sys/fs/cgroup".into()));
    assert_eq!(
        of(&format!("{v1}{hybrid}")),
        Hierarchy::Unified("/sys/fs/cgroup/unified".into())
    );
    assert_eq!(of(elsewhere), Hierarchy::Unified("/mnt/a b".into()));
    assert_eq!(
        of(&format!("{elsewhere}{v2}")),
        Hierarchy::Unified("/sys/fs/cgroup".into())
    );
    assert_eq!(
        [of(v1), of(partial), of("")],
        [Hierarchy::Absent, Hierarchy::Absent, Hierarchy::Absent]
    );
}

#[test]
fn a_container_has_its_place() {
    let unified = Hierarchy::Unified("/c".into());
    let own = "4:memory:/x\n0::/user.slice/shell.scope\n";
    let at = |path, own| {
        unified
            .locate_beside(own, path, "id")
            .map_err(|error| error.to_string())
    };
    assert_eq!(at(Some("/a/b"), own).unwrap(), Path::new("/c/a/b"));
    assert_eq!(at(Some("a//./b"), own).unwrap(), Path::new("/c/user.slice/a/b"));
    assert_eq!(at(None, own).unwrap(), Path::new("/c/user.slice/id"));
    assert_eq!(at(None, "0::/\n").unwrap(), Path::new("/c/id"));
    assert!(at(Some("/a/../b"), own).unwrap_err().contains("leave out `..`"));
    assert!(at(Some("/"), own).unwrap_err().contains("root of all cgroups"));
    assert!(
        at(None, "0::/../../x/y\n")
            .unwrap_err()
            .contains("give an absolute path")
    );
    let absent = Hierarchy::Absent
        .locate_beside(own, None, "id")
        .unwrap_err()
        .to_string();
    assert!(absent.contains("needs cgroup v2, which is not mounted"), "{absent}");
}

#[test]
fn figures_are_read_off_the_kernels_texts() {
    let disks = parse_disks("254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nbroken\n8:16 \n");
    let entry = |op: &str, value| DiskEntry {
        major: 254,
        minor: 0,
        op: op.to_owned(),
        value,
    };
    assert_eq!(
        disks.io_service_bytes_recursive,
        [entry("Read", 4096), entry("Write", 8192)]
    );
    assert_eq!(disks.io_serviced_recursive, [entry("Read", 1), entry("Write", 2)]);
    let pressure = "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
    let pressure = parse_pressure(pressure).unwrap();
    assert_eq!(
        (pressure.some.avg10, pressure.some.total, pressure.full.total),
        (1.5, 77, 5)
    );
    assert_eq!(parse_pressure(""), None);
    let shape = serde_json::to_value(Stats::default()).unwrap();
    assert_eq!(shape["cpu"]["throttling"]["throttledPeriods"], 0);
    assert_eq!(shape["memory"]["usage"]["failcnt"], 0);
}

/// A cgroup of a test on this machine, which is removed at its end; nothing where this user may make none.
struct Scratch(Cgroup);

impl Scratch {
    fn new(name: &str) -> Option<Self> {
        let hierarchy = Hierarchy::detect().unwrap();
        let name = format!("/coracle-test-{name}-{}", std::process::id());
        let path = hierarchy.locate(Some(&name), "").ok()?;
        if !rustix::process::geteuid().is_root() || fs::create_dir(&path).is_err() {
            eprintln!("skipped: no cgroup v2 that can be written");
            return None;
        }
        Some(Self(Cgroup::create(&hierarchy, &path).unwrap()))
    }
}

/// A shell in a cgroup.
fn spawn(cgroup: &Cgroup, script: &str) -> Child {
    let command = format!("read line || exit; {script}");
    let mut child = Command::new("sh")
        .args(["-c", &command])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    cgroup.join(child.id().cast_signed()).unwrap();
    writeln!(child.stdin.take().unwrap()).unwrap();
    child
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait_until_empty(Duration::from_secs(5));
        let _ = self.0.delete();
    }
}

#[test]
fn processes_are_frozen_thawed_killed() {
    let Some(scratch) = Scratch::new("freeze") else { return };
    let cgroup = &scratch.0;
    assert!(!cgroup.is_populated());
    let mut child = spawn(cgroup, "while :; do :; done");
    assert_eq!(cgroup.processes().unwrap(), [child.id().cast_signed()]);
    assert!(cgroup.is_populated());
    // Taken already.
    let hierarchy = Hierarchy::detect().unwrap();
    let taken = Cgroup::create(&hierarchy, cgroup.path()).unwrap_err().to_string();
    assert!(taken.contains("processes run in"), "{taken}");

    let used = || cgroup.stats().cpu.usage.total;
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen());
    let before = used();
    sleep(Duration::from_millis(100));
    assert_eq!(used(), before);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen());
    let end = Instant::now() + Duration::from_secs(10);
    while used() == before {
        assert!(Instant::now() < end, "it does not run again");
        sleep(Duration::from_millis(10));
    }

    cgroup.freeze().unwrap();
    assert!(!cgroup.wait_until_empty(Duration::from_millis(50)).unwrap());
    cgroup.kill().unwrap();
    assert!(cgroup.wait_until_empty(Duration::from_secs(10)).unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn without_the_kernels_help_a_tree_is_killed_too() {
    let Some(scratch) = Scratch::new("kill") else { return };
    let below = Cgroup::create(&Hierarchy::detect().unwrap(), &scratch.0.path().join("a/b")).unwrap();
    let mut child = spawn(&below, "sleep 1000 & sleep 1000 & wait");
    scratch.0.signal_until_empty().unwrap();
    assert!(scratch.0.wait_until_empty(Duration::from_secs(10)).unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    scratch.0.delete().unwrap();
    assert!(!scratch.0.exists() && !below.exists());
    // What is gone is killed and removed.
    scratch.0.kill().unwrap();
    scratch.0.delete().unwrap();
    assert!(scratch.0.wait_until_empty(Duration::ZERO).unwrap());
}

#[test]
fn device_nodes_are_restricted_and_rules_are_replaced() {
    let Some(scratch) = Scratch::new("devices") else { return };
    let folder = std::env::temp_dir().join(format!("coracle-devices-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let run = |script: &str| {
        let script = format!("cd {}; {script}", folder.display());
        spawn(&scratch.0, &script).wait().unwrap().success()
    };
    let rules = |given| serde_json::from_value::<Vec<crate::container::spec::DeviceRule>>(given).unwrap();
    let deny = json!([{"allow": false, "access": "rwm"}]);
    scratch.0.restrict_devices(&rules(deny), &[]).unwrap();
    assert!(run("echo >/dev/null && head -c 1 /dev/urandom >/dev/null"));
    assert!(!run("exec 3</dev/kmsg"));
    assert!(!run("mknod kmsg c 1 11"));
    assert!(run("mknod null c 1 3 && : >null"));
    let allow = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rm"}]);
    scratch.0.restrict_devices(&rules(allow), &[]).unwrap();
    assert!(run("mknod kmsg c 1 11 && exec 3<kmsg"));
    assert!(!run("exec 3>kmsg"));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_limit_without_its_controller_says_why() {
    let Some(scratch) = Scratch::new("limits") else { return };
    let error = |given| scratch.0.apply(&resources(given)).unwrap_err().to_string();
    assert!(error(json!({"unified": {"nothing.max": "1"}})).contains("the controller nothing is not available"));
    if hierarchy::is_legacy("memory") {
        let said = error(json!({"memory": {"limit": 1 << 20}}));
        assert!(
            said.contains("linux.resources.memory.limit: the controller memory of this host belongs to"),
            "{said}"
        );
    }
    // Nothing to limit.
    scratch.0.apply(&Resources::default()).unwrap();
}

#[test]
fn a_container_is_placed_or_leaves_nothing() {
    let Some(scratch) = Scratch::new("place") else { return };
    let hierarchy = Hierarchy::detect().unwrap();
    let path = format!("/{}/c", scratch.0.path().file_name().unwrap().to_str().unwrap());
    let linux =
        |resources| -> Linux { serde_json::from_value(json!({"cgroupsPath": path, "resources": resources})).unwrap() };
    let placed = place(
        &hierarchy,
        &linux(json!({"devices": [{"allow": false, "access": "rwm"}]})),
        "c",
    )
    .unwrap();
    assert_eq!(placed.left_out, [""; 0]);
    let cgroup = placed.cgroup.unwrap();
    assert!(cgroup.exists());
    cgroup.delete().unwrap();
    place(&hierarchy, &linux(json!({"unified": {"nothing.max": "1"}})), "c").unwrap_err();
    place(&hierarchy, &linux(json!({"devices": [{"type": "x"}]})), "c").unwrap_err();
    assert!(!cgroup.exists());

    let absent = place(&Hierarchy::Absent, &linux(json!({})), "c").unwrap();
    assert!(absent.cgroup.is_none() && absent.left_out.len() == 1);
    let refused = place(&Hierarchy::Absent, &linux(json!({"pids": {"limit": 1}})), "c")
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("linux.resources.pids.limit: needs cgroup v2"),
        "{refused}"
    );
}

#[test]
fn a_process_can_start_in_it() {
    let Some(scratch) = Scratch::new("clone") else { return };
    let folder = scratch.0.folder().unwrap();
    // SAFETY: all fields are numbers.
    let mut wish: libc::clone_args = unsafe { std::mem::zeroed() };
    wish.flags = 0x2_0000_0000; // CLONE_INTO_CGROUP
    wish.exit_signal = libc::SIGCHLD as u64;
    wish.cgroup = folder.as_raw_fd().cast_unsigned().into();
    // SAFETY: without a stack or shared memory it is a fork; the child only waits for its end.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const wish, size_of_val(&wish)) };
    if pid == 0 {
        loop {
            // SAFETY: it takes nothing.
            unsafe { libc::pause() };
        }
    }
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    assert_eq!(scratch.0.processes().unwrap(), [pid as i32]);
    scratch.0.kill().unwrap();
    let process = rustix::process::Pid::from_raw(pid as i32);
    let (_, end) = rustix::process::waitpid(process, rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    assert_eq!(end.terminating_signal(), Some(libc::SIGKILL));
}

#[test]
fn who_may_make_none_runs_without_and_without_limits() {
    if Scratch::new("rights").is_none() {
        return;
    }
    let end = std::thread::spawn(|| {
        // SAFETY: it takes a number; files are then nobody's to this thread, and to no other.
        unsafe { libc::syscall(libc::SYS_setfsuid, 65_534) };
        let hierarchy = Hierarchy::detect().unwrap();
        let id = format!("coracle-test-rights-{}", std::process::id());
        let linux = |given| serde_json::from_value::<Linux>(given).unwrap();
        let plain = place(&hierarchy, &linux(json!({})), &id).unwrap();
        assert!(plain.cgroup.is_none());
        let said = &plain.left_out[0];
        assert!(
            said.contains("make the cgroup") && said.contains("Permission denied"),
            "{said}"
        );
        let limited = json!({"resources": {"pids": {"limit": 5}}});
        let named = json!({"cgroupsPath": format!("/{id}")});
        for given in [limited, named] {
            let said = place(&hierarchy, &linux(given), &id).unwrap_err().to_string();
            assert!(said.contains("make the cgroup"), "{said}");
        }
    });
    end.join().unwrap();
}
