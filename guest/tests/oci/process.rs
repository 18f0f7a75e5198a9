//! Rows of the process: who it is, what it may do, what surrounds it.
use crate::bundle::Bundle;
use serde_json::json;
use std::{
    io::{ErrorKind, Write as _},
    thread,
    time::{Duration, Instant},
};

fn output(script: &str, change: impl FnOnce(&mut serde_json::Value)) -> Option<String> {
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sh", "-c", script]);
        change(config);
    })?;
    let ran = bundle.run();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{script}: {}", ran.out);
    Some(ran.out)
}

#[test]
fn it_is_the_user_that_it_is_said_to_be() {
    let script = "id; umask; pwd; echo $HOME; grep -e Cap -e NoNewPrivs /proc/self/status";
    let Some(out) = output(script, |config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "umask": 0o27, "additionalGids": [5, 6] });
        config["process"]["cwd"] = json!("/a/new/folder");
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        });
    }) else {
        return;
    };
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "uid=1000(ann) gid=1000 groups=5,6");
    assert_eq!(lines[1..4], ["0027", "/a/new/folder", "/home/ann"]);
    let status = lines[4..].join(" ").replace('\t', "");
    assert_eq!(
        status,
        "CapInh:0000000000000020 CapPrm:0000000000000020 CapEff:0000000000000020 CapBnd:0000000000000021 \
         CapAmb:0000000000000020 NoNewPrivs:1"
    );
}

#[test]
fn without_capabilities_user_0_has_none() {
    let Some(out) = output("grep Cap /proc/self/status", |config| {
        config["process"].as_object_mut().unwrap().remove("capabilities");
    }) else {
        return;
    };
    assert_eq!(out.matches("0000000000000000").count(), 5, "{out}");
}

#[test]
fn limits_and_scores_are_set() {
    let script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; grep -i policy /proc/self/sched";
    let Some(out) = output(script, |config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }]);
        config["process"]["oomScoreAdj"] = json!(321);
        config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 3 });
    }) else {
        return;
    };
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..3], ["77", "99", "321"]);
    assert!(lines.get(3).is_none_or(|line| line.ends_with('3')), "{out}");
}

#[test]
fn names_clocks_and_parameters_are_its_own() {
    let script = "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; \
                  cat /proc/self/timens_offsets; ip -o link show lo";
    let Some(out) = output(script, |config| {
        config["hostname"] = json!("tub");
        config["domainname"] = json!("example.org");
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "4242" });
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "time" }));
        config["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 86400 }, "boottime": { "secs": 172_800 } });
    }) else {
        return;
    };
    let lines: Vec<_> = out
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines[..4], ["tub", "example.org", "1", "4242"]);
    assert_eq!(lines[4..6], ["monotonic 86400 0", "boottime 172800 0"]);
    assert!(lines[6].contains("LOOPBACK,UP"), "{out}");
    assert_ne!(
        std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap().trim(),
        "4242"
    );
}

#[test]
fn a_namespace_can_be_another_containers() {
    let Some(first) = Bundle::new(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        config["hostname"] = json!("first");
    }) else {
        return;
    };
    assert_eq!(first.create(&[]).code, 0);
    let pid = first.state()["pid"].clone();
    let join = |kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") });
    let Some(out) = output("hostname; ps | wc -l; readlink /proc/self/ns/net", |config| {
        config.as_object_mut().unwrap().remove("hostname");
        config["linux"]["namespaces"] = json!([
            { "type": "mount" }, { "type": "cgroup" }, { "type": "ipc" },
            join("uts", "uts"), join("network", "net"), join("pid", "pid"),
        ]);
    }) else {
        return;
    };
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "first");
    // A head, the first container's process, and the second's: a shell, ps and wc.
    assert_eq!(lines[1], "5");
    let net = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(lines[2], net.to_str().unwrap());
}

#[test]
fn user_0_of_a_user_namespace_is_nobody_outside() {
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/mine; sleep 60"]);
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "user" }));
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
        config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
    });
    let Some(bundle) = bundle else { return };
    let tmp = bundle.path.join("rootfs/tmp");
    std::os::unix::fs::chown(&tmp, Some(200_000), Some(200_000)).unwrap();
    let created = bundle.create(&[]);
    assert_eq!((created.code, created.err.as_str()), (0, ""));
    bundle.must("start", &[]);
    let owner = || std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(tmp.join("mine")).unwrap());
    while !tmp.join("mine").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(owner(), 200_000);
    assert_eq!(
        bundle.output().split_whitespace().collect::<Vec<_>>(),
        ["0", "0", "200000", "65536"]
    );
    let inside = bundle.verb("exec", &["sh", "-c", "id -u; ps | wc -l"]);
    assert_eq!((inside.code, inside.out.as_str()), (0, "0\n5\n"), "{}", inside.err);
}

#[test]
fn no_descriptor_of_the_runtime_is_left_open() {
    let Some(out) = output("ls /proc/self/fd | wc -l", |_| ()) else {
        return;
    };
    // Three streams and the one that ls reads the folder with.
    assert_eq!(out.trim(), "4");
}

#[test]
fn a_container_never_sees_the_runtimes_own_file() {
    let Some(bundle) = Bundle::new(|config| config["process"]["args"] = json!(["sleep", "60"])) else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    // Its first process is the runtime still, as the container's user 0 could see it in a PID namespace of others.
    let link = format!("/proc/{}/exe", bundle.state()["pid"]);
    // Who holds it open and waits for the end of the process cannot write to it then, either.
    let held = std::fs::File::open(&link).unwrap();
    bundle.must("delete", &["--force"]);
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let mut write = std::fs::OpenOptions::new();
    let until = Instant::now() + Duration::from_secs(30);
    let error = loop {
        let written = write.write(true).open(&again).and_then(|mut file| file.write_all(b"x"));
        // While other tests run the same program, the kernel looks no further.
        match written.unwrap_err() {
            busy if busy.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            error => break error,
        }
    };
    // A read-only mount, or a sealed copy.
    assert!(matches!(error.raw_os_error(), Some(30 | 1)), "{error}");
    let own = std::fs::OpenOptions::new()
        .append(true)
        .open(env!("CARGO_BIN_EXE_coracle-oci"));
    assert!(
        own.is_ok_and(|file| file.metadata().is_ok()),
        "but for that, user 0 could write to it"
    );
}
