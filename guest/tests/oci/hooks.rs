//! Hooks, at all six points.
use crate::bundle::Bundle;
use serde_json::json;
use std::fs;

const POINTS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

#[test]
fn hooks_run_in_order_with_the_state_at_their_point() {
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["true"]);
        config["annotations"] = json!({ "a": "b" });
    });
    let Some(bundle) = bundle else { return };
    let log = bundle.path.join("rootfs/tmp/log");
    bundle.change(|config| {
        let mut hooks = json!({});
        for point in POINTS {
            // Those of the container's view see the log where it is inside.
            let file = if point == "startContainer" {
                "/tmp/log"
            } else {
                log.to_str().unwrap()
            };
            let script = format!("echo {point} $(cat | tr -d '\\n ') >> {file}");
            let path = if point == "startContainer" {
                "/bin/busybox"
            } else {
                "/bin/sh"
            };
            hooks[point] = json!([{ "path": path, "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }]);
        }
        config["hooks"] = hooks;
    });
    // tr is one of busybox's own commands where a path is not needed.
    std::os::unix::fs::symlink("busybox", bundle.path.join("rootfs/bin/tr")).unwrap();
    assert_eq!(
        bundle.run(),
        crate::bundle::Ran {
            code: 0,
            out: String::new(),
            err: String::new()
        }
    );
    let log = fs::read_to_string(log).unwrap();
    let told: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(told.iter().map(|(point, _)| *point).collect::<Vec<_>>(), POINTS);
    let statuses = ["creating", "creating", "creating", "created", "running", "stopped"];
    for ((point, state), status) in told.iter().zip(statuses) {
        let state: serde_json::Value = serde_json::from_str(state).unwrap();
        assert_eq!(state["status"], status, "{point}");
        assert_eq!(state["id"], bundle.id.as_str(), "{point}");
        assert_eq!(state["annotations"]["a"], "b", "{point}");
    }
}

#[test]
fn a_hook_that_fails_before_the_start_ends_the_container() {
    for point in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let Some(bundle) = Bundle::new(|config| {
            config["process"]["args"] = json!(["echo", "ran"]);
            let path = if point == "startContainer" {
                "/bin/busybox"
            } else {
                "/bin/sh"
            };
            let fails = json!({ "path": path, "args": ["sh", "-c", "echo no luck; exit 3"] });
            config["hooks"][point] = json!([fails]);
        }) else {
            return;
        };
        let stopped = bundle.path.join("stopped");
        bundle.change(|config| {
            let script = format!("echo > {}", stopped.display());
            config["hooks"]["poststop"] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
        });
        let ran = bundle.run();
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{point}");
        assert!(
            ran.err.contains(&format!("hooks.{point}[0]")) && ran.err.contains("no luck"),
            "{}",
            ran.err
        );
        assert!(stopped.exists(), "hooks poststop run after a failed {point}");
        assert_eq!(bundle.left(), Vec::<String>::new());
    }
}

#[test]
fn a_hook_that_fails_later_is_told_of() {
    for point in ["poststart", "poststop"] {
        let Some(bundle) = Bundle::new(|config| {
            config["process"]["args"] = json!(["echo", "ran"]);
            config["hooks"][point] = json!([{ "path": "/bin/false" }]);
        }) else {
            return;
        };
        let ran = bundle.run();
        assert_eq!((ran.code, ran.out.as_str()), (0, "ran\n"), "{point}");
        assert!(ran.err.starts_with("coracle-oci: warning: "), "{}", ran.err);
    }
}

#[test]
fn a_hook_after_the_start_can_use_the_container() {
    let Some(bundle) = Bundle::script("sleep 60") else {
        return;
    };
    let (oci, root) = (env!("CARGO_BIN_EXE_coracle-oci"), bundle.state_root());
    let script = format!("{oci} --root {} exec {} touch /tmp/hooked", root.display(), bundle.id);
    bundle.change(|config| {
        let env = json!(["PATH=/bin:/usr/bin"]);
        config["hooks"]["poststart"] =
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": env, "timeout": 10 }]);
    });
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.must("start", &[]);
    assert!(bundle.path.join("rootfs/tmp/hooked").exists());
}
