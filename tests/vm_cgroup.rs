//! cgroups of containers on a stock kernel: limits that hold, what is told of them, and how a container is stopped,
//! killed and kept from devices. All of it happens in one guest, which this program is started in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod inside;
    pub mod run;
    pub mod tiny;
}
use coracle::{
    builder::build,
    config::{
        self,
        spec::{SerialInput, SerialOutput, SerialSpec},
    },
    event::Outcome,
};
use coracle_guest::container::{
    cgroup::{
        Cgroup, Hierarchy,
        oom::{OomNews, OomWatch},
        place,
    },
    spec::{Linux, Resources},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use support::{inside, run::LIMIT, tiny::Folder};

/// How long anything in the guest may take.
const SOON: Duration = Duration::from_secs(60);

/// What the kernel of a bundle has.
const CONTROLLERS: [&str; 7] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"];

#[test]
fn limits_hold_in_a_guest() {
    if inside::is_inside() {
        return;
    }
    let folder = Folder::new("cgroup");
    let bundle = inside::bundle_with_this(&folder);
    let (console, disk) = (folder.join("console"), folder.join("disk"));
    fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let config = json!({
        "boot-source": { "kernel_bundle": bundle, "command": ["sh", "-c", inside::command("guest")] },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 512 },
        "drives": [{ "drive_id": "disk", "path_on_host": disk, "is_root_device": false }],
    });
    let mut spec = config::parse(&config.to_string()).unwrap();
    spec.serial = SerialSpec {
        input: SerialInput::None,
        output: SerialOutput::File(console.clone()),
    };
    let vm = build(spec).unwrap();
    vm.start().unwrap();
    let outcome = vm.wait_timeout(LIMIT).expect("the VM ends");
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
    assert_eq!(outcome, Outcome::Exited(0), "{text}");
    assert!(text.contains("ALL HELD"), "{text}");
}

/// The guest's part.
#[test]
fn guest() {
    if !inside::is_inside() {
        return;
    }
    let tests: [(&str, fn()); 12] = [
        ("the machine has what it takes", the_machine_has_what_it_takes),
        (
            "memory is limited and its end is told",
            memory_is_limited_and_its_end_is_told,
        ),
        ("tasks are limited", tasks_are_limited),
        ("processors are limited and updated", processors_are_limited_and_updated),
        ("disks are limited and counted", disks_are_limited_and_counted),
        ("other files are written", other_files_are_written),
        ("a frozen container stands still", a_frozen_container_stands_still),
        ("a kill empties the tree", a_kill_empties_the_tree),
        ("devices are restricted", devices_are_restricted),
        ("a process starts inside", a_process_starts_inside),
        ("what cannot be limited is refused", what_cannot_be_limited_is_refused),
        ("a container is placed", a_container_is_placed),
    ];
    for (name, test) in tests {
        println!("--- {name}");
        test();
    }
    println!("ALL HELD");
}

fn hierarchy() -> Hierarchy {
    Hierarchy::detect().unwrap()
}

fn resources(given: serde_json::Value) -> Resources {
    serde_json::from_value(given).unwrap()
}

/// A cgroup, which is removed at its end.
struct Scratch(Cgroup);

impl Scratch {
    fn new(name: &str, limits: serde_json::Value) -> Self {
        let path = hierarchy().locate(Some(&format!("/test/{name}")), "").unwrap();
        let cgroup = Cgroup::create(&hierarchy(), &path).unwrap();
        cgroup.apply(&resources(limits)).unwrap();
        Self(cgroup)
    }

    fn read(&self, file: &str) -> String {
        let text = fs::read_to_string(self.0.path().join(file)).unwrap();
        text.trim_end().to_owned()
    }

    /// A shell in it.
    fn spawn(&self, script: &str) -> Child {
        spawn(&self.0, script)
    }

    fn run(&self, script: &str) -> ExitStatus {
        self.spawn(script).wait().unwrap()
    }
}

/// A shell in a cgroup, which starts its script once it is there.
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
        self.0.kill().unwrap();
        assert!(self.0.wait_until_empty(SOON).unwrap());
        self.0.delete().unwrap();
        assert!(!self.0.exists());
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(5));
    }
}

fn the_machine_has_what_it_takes() {
    assert_eq!(hierarchy().mount().unwrap().to_str(), Some("/sys/fs/cgroup"));
    let here = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let lacking: Vec<_> = CONTROLLERS
        .iter()
        .filter(|it| !here.split_whitespace().any(|word| word == **it))
        .collect();
    assert!(
        lacking.is_empty(),
        "this kernel has no controllers {lacking:?}, only {here}"
    );
    let scratch = Scratch::new("a/b/c", json!({}));
    let passed = scratch.read("cgroup.controllers");
    assert!(CONTROLLERS.iter().all(|it| passed.contains(it)), "{passed}");
}

/// The next news of a watch.
fn news(watch: &mut OomWatch) -> OomNews {
    let limit = Timespec::try_from(SOON).unwrap();
    loop {
        assert_eq!(
            poll(&mut [PollFd::new(&*watch, PollFlags::IN)], Some(&limit)).unwrap(),
            1,
            "no news"
        );
        match watch.take().unwrap() {
            OomNews::Quiet => {}
            news => return news,
        }
    }
}

fn memory_is_limited_and_its_end_is_told() {
    let limit = 16 << 20;
    let scratch = Scratch::new(
        "memory",
        json!({"memory": {"limit": limit, "swap": limit, "reservation": 1 << 20}}),
    );
    assert_eq!(scratch.read("memory.max"), limit.to_string());
    assert_eq!(scratch.read("memory.low"), (1 << 20).to_string());
    let mut watch = scratch.0.watch_oom().unwrap();
    assert!(scratch.run("true").success());
    assert_eq!(watch.take().unwrap(), OomNews::Quiet);
    let end = scratch.run("exec tail /dev/zero");
    assert_eq!(end.signal(), Some(libc::SIGKILL));
    let OomNews::Oom(counts) = news(&mut watch) else {
        panic!("it was removed")
    };
    assert!(counts.kills >= 1 && counts.limit_hits >= 1, "{counts:?}");
    let stats = scratch.0.stats().memory;
    assert_eq!((stats.usage.limit, stats.swap.limit), (limit, limit));
    assert!(stats.usage.usage < limit && stats.usage.failcnt > 0, "{stats:?}");
    assert!(stats.raw.contains_key("anon"));

    // An update below what is in use, with the wish that it be checked.
    let file = "dd if=/dev/zero of=/tmp/used bs=1M count=8 2>/dev/null; sleep 1000";
    let mut holder = scratch.spawn(file);
    wait_until("memory is in use", || scratch.0.stats().memory.usage.usage > 8 << 20);
    let update = resources(json!({"memory": {"limit": 1 << 20, "checkBeforeUpdate": true}}));
    let said = scratch.0.apply(&update).unwrap_err().to_string();
    assert!(
        said.contains("is below the") && said.contains("checkBeforeUpdate"),
        "{said}"
    );
    assert_eq!(scratch.read("memory.max"), limit.to_string());
    // Swap alone: the limit is the one that is set.
    scratch
        .0
        .apply(&resources(json!({"memory": {"swap": limit + (1 << 20)}})))
        .unwrap();
    assert_eq!(scratch.read("memory.swap.max"), (1 << 20).to_string());
    scratch.0.kill().unwrap();
    assert_eq!(holder.wait().unwrap().signal(), Some(libc::SIGKILL));
    fs::remove_file("/tmp/used").unwrap();
    drop(scratch);
    assert_eq!(news(&mut watch), OomNews::Gone);
}

fn tasks_are_limited() {
    let scratch = Scratch::new("pids", json!({"pids": {"limit": 3}}));
    let end = scratch.run("sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait");
    assert!(!end.success(), "five tasks run");
    let stats = scratch.0.stats().pids;
    assert_eq!(stats.limit, 3);
    assert!(stats.current <= 3, "{stats:?}");
    assert_ne!(scratch.read("pids.events"), "max 0");
    scratch.0.apply(&resources(json!({"pids": {"limit": -1}}))).unwrap();
    assert_eq!(scratch.0.stats().pids.limit, 0);
    assert!(scratch.run("true & true & true & true & wait").success());
}

fn processors_are_limited_and_updated() {
    let limits =
        json!({"cpu": {"shares": 512, "quota": 20_000, "period": 100_000, "burst": 1000, "cpus": "0", "mems": "0"}});
    let scratch = Scratch::new("cpu", limits);
    assert_eq!(scratch.read("cpu.max"), "20000 100000");
    assert_eq!(scratch.read("cpu.max.burst"), "1000");
    assert_eq!(scratch.read("cpu.weight"), "59");
    assert_eq!(
        (scratch.read("cpuset.cpus"), scratch.read("cpuset.mems")),
        ("0".to_owned(), "0".to_owned())
    );
    let mut spinner = scratch.spawn("while :; do :; done");
    wait_until("the quota is used up", || {
        scratch.0.stats().cpu.throttling.throttled_periods > 2
    });
    let cpu = scratch.0.stats().cpu;
    assert!(cpu.throttling.throttled_time > 0 && cpu.usage.total > 0, "{cpu:?}");
    assert!(
        cpu.usage.user + cpu.usage.kernel <= cpu.usage.total + 1_000_000,
        "{cpu:?}"
    );

    let update = |given| scratch.0.apply(&resources(given)).unwrap();
    update(json!({"cpu": {"period": 50_000}}));
    assert_eq!(scratch.read("cpu.max"), "20000 50000");
    update(json!({"cpu": {"quota": 10_000, "burst": 500}}));
    assert_eq!(scratch.read("cpu.max"), "10000 50000");
    assert_eq!(scratch.read("cpu.max.burst"), "500");
    update(json!({"cpu": {"quota": -1, "burst": 0}}));
    assert_eq!(scratch.read("cpu.max"), "max 50000");
    update(json!({"cpu": {"idle": 1}}));
    assert_eq!(scratch.read("cpu.idle"), "1");
    update(json!({"cpu": {"idle": 0, "shares": 1024}}));
    assert_eq!(scratch.read("cpu.weight"), "100");
    scratch.0.kill().unwrap();
    spinner.wait().unwrap();
}

fn disks_are_limited_and_counted() {
    let number = fs::read_to_string("/sys/block/vda/dev").unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let (major, minor): (u64, u64) = (major.parse().unwrap(), minor.parse().unwrap());
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let limits = json!({"blockIO": {"weight": 100, "throttleReadBpsDevice": rate(64 << 20),
        "throttleWriteIOPSDevice": rate(100)}});
    let scratch = Scratch::new("io", limits);
    assert_eq!(
        scratch.read("io.max"),
        format!("{major}:{minor} rbps=67108864 wbps=max riops=max wiops=100")
    );
    assert_eq!(scratch.read("io.weight"), "default 910");
    assert!(scratch.run("dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null").success());
    let disks = scratch.0.stats().blkio;
    let read = disks
        .io_service_bytes_recursive
        .iter()
        .find(|it| it.op == "Read" && it.major == major)
        .unwrap();
    assert_eq!((read.minor, read.value), (minor, 1 << 20));
    assert!(
        disks
            .io_serviced_recursive
            .iter()
            .any(|it| it.op == "Read" && it.value > 0)
    );
}

fn other_files_are_written() {
    let limits = json!({
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        "unified": {"memory.high": "33554432", "cgroup.max.depth": "7"},
    });
    let scratch = Scratch::new("others", limits);
    assert_eq!(scratch.read("hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(scratch.read("hugetlb.2MB.rsvd.max"), (4 << 20).to_string());
    assert_eq!(scratch.read("memory.high"), "33554432");
    assert_eq!(scratch.read("cgroup.max.depth"), "7");
    assert_eq!(scratch.0.stats().hugetlb["2MB"].usage, 0);
}

fn a_frozen_container_stands_still() {
    let scratch = Scratch::new("freeze", json!({}));
    let mut child = scratch.spawn("while :; do :; done");
    let used = || scratch.0.stats().cpu.usage.total;
    wait_until("it runs", || used() > 0);
    scratch.0.freeze().unwrap();
    assert!(scratch.0.is_frozen());
    let before = used();
    sleep(Duration::from_millis(300));
    assert_eq!(used(), before, "it runs while it is frozen");
    scratch.0.thaw().unwrap();
    wait_until("it runs again", || used() > before);
    scratch.0.freeze().unwrap();
    scratch.0.kill().unwrap();
    assert!(scratch.0.wait_until_empty(SOON).unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    // As it was left, frozen, it is taken again.
    let again = Cgroup::create(&hierarchy(), scratch.0.path()).unwrap();
    assert!(!again.is_frozen());
}

fn a_kill_empties_the_tree() {
    let scratch = Scratch::new("kill", json!({}));
    let below = Cgroup::create(&hierarchy(), &scratch.0.path().join("x/y")).unwrap();
    let mut child = spawn(&below, "for i in 1 2 3 4 5; do sleep 1000 & done; wait");
    wait_until("all are there", || scratch.0.processes().unwrap().len() == 6);
    assert!(!scratch.0.wait_until_empty(Duration::from_millis(50)).unwrap());
    scratch.0.kill().unwrap();
    assert!(scratch.0.wait_until_empty(SOON).unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(scratch.0.processes().unwrap().is_empty());
}

fn devices_are_restricted() {
    let scratch = Scratch::new("devices", json!({}));
    let restrict = |rules| {
        let resources = resources(json!({"devices": rules}));
        scratch.0.restrict_devices(&resources.devices, &[]).unwrap();
    };
    let works = |script: &str| scratch.run(&format!("cd /tmp; {script}")).success();
    assert!(works("head -c 1 /dev/vda >/dev/null"));
    restrict(json!([{"allow": false, "access": "rwm"}]));
    assert!(!works("head -c 1 /dev/vda >/dev/null"));
    assert!(!works("mknod disk b 254 0"));
    assert!(works(
        "echo >/dev/null; head -c 1 /dev/urandom >/dev/null; mknod null c 1 3 && rm null"
    ));
    // In their order, the last one wins; and they take the place of the others.
    restrict(json!([{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"}]));
    assert!(works("head -c 1 /dev/vda >/dev/null; mknod disk b 254 0 && rm disk"));
    assert!(!works("exec 3<>/dev/vda"));
    // Cgroups below are held to it too.
    let below = Scratch(Cgroup::create(&hierarchy(), &scratch.0.path().join("below")).unwrap());
    restrict(json!([{"allow": false, "access": "rwm"}]));
    assert!(!below.run("head -c 1 /dev/vda >/dev/null").success());
}

fn a_process_starts_inside() {
    let scratch = Scratch::new("clone", json!({}));
    let mut command = Command::new("sh");
    command.args(["-c", "grep -q ^0::/test/clone$ /proc/self/cgroup"]);
    scratch.0.join(0).unwrap();
    let end = command.status();
    // Back, so that the cgroup can be removed.
    Cgroup::at("/sys/fs/cgroup").join(0).unwrap();
    assert!(end.unwrap().success());
    let folder = scratch.0.folder().unwrap();
    assert!(rustix::fs::fstat(&folder).unwrap().st_nlink > 0);
}

fn what_cannot_be_limited_is_refused() {
    // A cgroup with a process in it passes no controller on.
    let outer = Scratch::new("inner", json!({}));
    let mut sleeper = outer.spawn("sleep 1000");
    let said = place(
        &hierarchy(),
        &linux("/test/inner/c", json!({"memory": {"limit": 1 << 20}})),
        "c",
    )
    .unwrap_err();
    let said = said.to_string();
    assert!(
        said.contains("linux.resources.memory.limit: the controller memory is not passed down"),
        "{said}"
    );
    assert!(!outer.0.path().join("c").exists());
    // Nor can it be taken by a container.
    let said = place(&hierarchy(), &linux("/test/inner", json!({})), "c")
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("processes run in /sys/fs/cgroup/test/inner already"),
        "{said}"
    );
    outer.0.kill().unwrap();
    sleeper.wait().unwrap();
    // The kernel refuses what makes no sense to it, and says so with its words.
    let scratch = Scratch::new("refused", json!({}));
    let said = scratch
        .0
        .apply(&resources(json!({"cpu": {"cpus": "4000"}})))
        .unwrap_err();
    assert!(
        said.to_string()
            .contains("write \"4000\" to /sys/fs/cgroup/test/refused/cpuset.cpus"),
        "{said}"
    );
    let said = scratch
        .0
        .apply(&resources(json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})))
        .unwrap_err();
    assert!(said.to_string().contains("has no hugetlb.3MB.max"), "{said}");
}

fn linux(path: &str, resources: serde_json::Value) -> Linux {
    serde_json::from_value(json!({"cgroupsPath": path, "resources": resources})).unwrap()
}

fn a_container_is_placed() {
    let limits =
        json!({"pids": {"limit": 20}, "memory": {"limit": 32 << 20}, "devices": [{"allow": false, "access": "rwm"}]});
    let placed = place(&hierarchy(), &linux("/test/placed", limits), "c").unwrap();
    assert!(placed.left_out.is_empty(), "{:?}", placed.left_out);
    let scratch = Scratch(placed.cgroup.unwrap());
    assert_eq!(
        (scratch.read("pids.max"), scratch.read("memory.max")),
        ("20".to_owned(), (32 << 20).to_string())
    );
    assert!(!scratch.run("head -c 1 /dev/vda >/dev/null").success());
    let stats = serde_json::to_value(scratch.0.stats()).unwrap();
    assert_eq!(stats["memory"]["usage"]["limit"], 32 << 20);
    // Without a path it is named after the container.
    let named = place(&hierarchy(), &Linux::default(), "named").unwrap();
    let named = Scratch(named.cgroup.unwrap());
    assert_eq!(named.0.path().to_str(), Some("/sys/fs/cgroup/named"));
}
