//! Further processes in a container.
use crate::bundle::Bundle;
use serde_json::json;
use std::fs;

fn running() -> Option<Bundle> {
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sleep", "60"]);
        config["hostname"] = json!("tub");
        config["process"]["env"]
            .as_array_mut()
            .unwrap()
            .push(json!("GREETING=hello"));
    })?;
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.must("start", &[]);
    Some(bundle)
}

#[test]
fn it_sees_what_the_first_process_sees() {
    let Some(bundle) = running() else { return };
    let links = "for kind in cgroup ipc mnt net pid uts; do readlink /proc/$PID/ns/$kind; done";
    let first = bundle.must("exec", &["sh", "-c", &links.replace("$PID", "1")]);
    let own = bundle.must("exec", &["sh", "-c", &links.replace("$PID", "self")]);
    assert_eq!(first, own);
    let out = bundle.must(
        "exec",
        &[
            "sh",
            "-c",
            "hostname; echo $GREETING; cat /proc/1/cgroup /proc/self/cgroup | wc -l",
        ],
    );
    assert!(out.starts_with("tub\nhello\n"), "{out}");
    let cgroup = |path: &str| bundle.must("exec", &["grep", "^0::", path]);
    assert_eq!(cgroup("/proc/1/cgroup"), cgroup("/proc/self/cgroup"));
}

#[test]
fn flags_and_files_say_who_it_is() {
    let Some(bundle) = running() else { return };
    let flags = [
        "--user",
        "1000:7",
        "--env",
        "A=b",
        "--cwd",
        "/tmp",
        &bundle.id,
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $A",
    ];
    let ran = bundle.run_in(&[&["exec"][..], &flags].concat());
    assert_eq!((ran.code, ran.out.as_str()), (0, "1000\n7\n/tmp\nb\n"), "{}", ran.err);
    let process = json!({ "args": ["sh", "-c", "echo $$ $X; exit 5"], "cwd": "/", "env": ["X=y", "PATH=/bin"] });
    fs::write(bundle.path.join("process.json"), process.to_string()).unwrap();
    let ran = bundle.run_in(&["exec", "--process", "process.json", &bundle.id]);
    assert!(ran.code == 5 && ran.out.ends_with(" y\n"), "{ran:?}");
}

#[test]
fn exit_codes_are_a_shells() {
    let Some(bundle) = running() else { return };
    for (program, code) in [
        (&["sh", "-c", "exit 3"][..], 3),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["nothere"], 127),
        (&["/etc"], 126),
    ] {
        assert_eq!(bundle.verb("exec", program).code, code, "{program:?}");
    }
}

#[test]
fn a_detached_one_is_known_by_its_pid_file() {
    let Some(bundle) = running() else { return };
    let mut command = bundle.command(&["exec", "--detach", "--pid-file", "pid", &bundle.id, "sleep", "50"]);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    assert!(command.status().unwrap().success());
    let pid = fs::read_to_string(bundle.path.join("pid")).unwrap();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, "sleep\x0050\0");
    assert_eq!(
        bundle.must("exec", &["sh", "-c", "ps | grep -c 'sleep 5[0]'"]).trim(),
        "1"
    );
}

#[test]
fn nothing_runs_in_a_container_that_has_stopped() {
    let Some(bundle) = running() else { return };
    bundle.must("kill", &["KILL"]);
    bundle.wait_for("stopped");
    assert!(
        bundle
            .verb("exec", &["true"])
            .err
            .contains("is stopped; nothing can run in it")
    );
}

#[test]
fn it_can_have_a_terminal() {
    let Some(bundle) = running() else { return };
    let ran = bundle.run_in(&["exec", "--tty", &bundle.id, "sh", "-c", "tty; test -t 1 && echo yes"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "/dev/pts/0\r\nyes\r\n"),
        "{}",
        ran.err
    );
}
