//! Rows of the life cycle: states, exit codes, signals, what is left behind.
use crate::bundle::Bundle;
use serde_json::json;
use std::{fs, process::Stdio, thread, time::Duration};

#[test]
fn a_container_goes_through_its_states_in_order() {
    let Some(bundle) = Bundle::script("echo started; sleep 60") else {
        return;
    };
    assert_eq!(bundle.create(&["--pid-file", "pid"]).code, 0);
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["bundle"], bundle.path.to_str().unwrap());
    assert_eq!(
        state["pid"].to_string(),
        fs::read_to_string(bundle.path.join("pid")).unwrap()
    );
    assert_eq!(bundle.output(), "", "nothing runs before start");
    bundle.must("start", &[]);
    assert_eq!(bundle.state()["status"], "running");
    assert!(
        bundle
            .verb("start", &[])
            .err
            .contains("is running; only a created one can be started")
    );
    assert!(
        bundle
            .verb("delete", &[])
            .err
            .contains("is running; stop it with kill first")
    );
    assert_eq!(bundle.state()["status"], "running", "a refused delete has no effect");
    bundle.must("kill", &["KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(bundle.output(), "started\n");
    assert!(
        bundle
            .verb("kill", &[])
            .err
            .contains("is stopped; there is no process to send a signal to")
    );
    bundle.must("delete", &[]);
    assert!(bundle.verb("state", &[]).err.contains("does not exist"));
    assert_eq!(bundle.left(), Vec::<String>::new());
}

#[test]
fn the_configuration_is_frozen_when_the_container_is_created() {
    let Some(bundle) = Bundle::script("echo before") else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.change(|config| {
        config["process"]["args"] = json!(["echo", "after"]);
        config["hooks"] = json!({ "poststart": [{ "path": "/bin/sh", "args": ["sh", "-c", "touch poststart"] }] });
    });
    bundle.must("start", &[]);
    bundle.wait_for("stopped");
    assert_eq!(bundle.output(), "before\n");
    assert!(!bundle.path.join("poststart").exists());
}

#[test]
fn a_name_is_given_once() {
    let Some(bundle) = Bundle::script("sleep 60") else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    assert!(bundle.create(&[]).err.contains("already exists"));
    assert_eq!(bundle.state()["status"], "created", "the first one is still there");
    assert!(
        bundle
            .run_in(&["create", "../x"])
            .err
            .contains("a name has 1 to 255 letters")
    );
}

#[test]
fn exit_codes_are_a_shells() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$; kill -KILL $$; exit 9", 9),
    ] {
        let Some(bundle) = Bundle::script(script) else { return };
        assert_eq!(bundle.run().code, code, "{script}");
        assert_eq!(bundle.left(), Vec::<String>::new());
    }
    let Some(bundle) = Bundle::script("sh -c 'kill -KILL $$'; exit $?") else {
        return;
    };
    assert_eq!(bundle.run().code, 137);
}

#[test]
fn signals_reach_the_container_in_the_foreground() {
    let Some(bundle) = Bundle::script("trap 'echo caught; exit 42' TERM; echo ready; while :; do sleep 0.05; done")
    else {
        return;
    };
    let mut command = bundle.command(&["run", &bundle.id]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    bundle_runs(&bundle);
    thread::sleep(Duration::from_millis(200));
    // timeout(1) passes the signal on to the runtime, and the runtime to the container.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\ncaught\n");
    assert_eq!(bundle.left(), Vec::<String>::new());
}

fn bundle_runs(bundle: &Bundle) {
    while !bundle.verb("state", &[]).out.contains("running") {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_created_container_can_be_deleted_and_one_that_runs_by_force() {
    let Some(bundle) = Bundle::script("sleep 60") else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.must("delete", &[]);
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.must("start", &[]);
    bundle.must("delete", &["--force"]);
    assert_eq!(bundle.left(), Vec::<String>::new());
    bundle.must("delete", &["--force"]);
    assert!(bundle.verb("delete", &[]).err.contains("does not exist"));
}

#[test]
fn nothing_is_left_of_a_container_that_could_not_be_made() {
    for (what, change) in [
        ("no program", json!({ "args": ["nothere"], "cwd": "/" })),
        (
            "a file that is no program",
            json!({ "args": ["/etc/passwd"], "cwd": "/" }),
        ),
        (
            "a limit above the hard one of the system",
            json!({
                "args": ["true"], "cwd": "/", "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1u64 << 40 }],
            }),
        ),
    ] {
        let Some(bundle) = Bundle::new(|config| config["process"] = change.clone()) else {
            return;
        };
        let ran = bundle.create(&["--pid-file", "pid"]);
        assert_ne!(ran.code, 0, "{what}");
        assert!(ran.err.starts_with("coracle-oci: cannot "), "{what}: {}", ran.err);
        assert_eq!(bundle.left(), Vec::<String>::new(), "{what}");
        assert!(!bundle.path.join("pid").exists(), "{what}");
    }
}

#[test]
fn programs_that_cannot_run_are_told_from_those_that_are_not_there() {
    for (program, code) in [
        ("nothere", 127),
        ("/bin/nothere", 127),
        ("/etc/passwd", 126),
        ("/etc", 126),
    ] {
        let Some(bundle) = Bundle::new(|config| config["process"]["args"] = json!([program])) else {
            return;
        };
        let ran = bundle.run();
        assert_eq!(ran.code, code, "{program}: {}", ran.err);
    }
}

#[test]
fn pausing_stops_time_for_the_container() {
    let Some(bundle) = Bundle::script("while :; do echo tick; sleep 0.02; done") else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.must("start", &[]);
    let paused = bundle.verb("pause", &[]);
    if paused.err.contains("no cgroup v2") {
        eprintln!("skipped: {}", paused.err);
        return;
    }
    assert_eq!(paused.code, 0, "{}", paused.err);
    assert_eq!(bundle.state()["status"], "paused");
    assert!(
        bundle
            .verb("exec", &["true"])
            .err
            .contains("is paused; resume it first")
    );
    let before = bundle.output();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(bundle.output(), before);
    bundle.must("resume", &[]);
    thread::sleep(Duration::from_millis(200));
    assert!(bundle.output().len() > before.len());
}

#[test]
fn lists_name_every_container() {
    let Some(bundle) = Bundle::script("sleep 60") else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    let list = bundle.run_in(&["list"]).out;
    assert!(list.starts_with("ID "), "{list}");
    assert!(list.contains(&bundle.id) && list.contains("created"), "{list}");
    assert_eq!(bundle.run_in(&["list", "-q"]).out, format!("{}\n", bundle.id));
    let pids: Vec<i64> = serde_json::from_str(&bundle.must("ps", &["--format", "json"])).unwrap();
    assert_eq!(json!(pids), json!([bundle.state()["pid"]]));
}

#[test]
fn errors_are_in_the_log_as_well() {
    let Some(bundle) = Bundle::script("true") else { return };
    bundle.run_in(&["--log", "log", "--log-format", "json", "start", "nothere"]);
    let line = fs::read_to_string(bundle.path.join("log")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(
        (&entry["level"], &entry["msg"]),
        (&json!("error"), &json!("container nothere: does not exist"))
    );
}
