//! What is not done is refused by its name.
use crate::bundle::Bundle;
use serde_json::json;

#[test]
fn flags_for_what_is_not_there_are_refused() {
    let Some(bundle) = Bundle::script("true") else { return };
    let ran = bundle.run_in(&["--systemd-cgroup", "run", &bundle.id]);
    assert!(
        ran.code != 0
            && ran
                .err
                .contains("--systemd-cgroup: cgroups by systemd are not supported")
    );
    let ran = bundle.run_in(&["--criu", "/bin/criu", "list"]);
    assert!(ran.code != 0 && ran.err.contains("--criu"));
    let ran = bundle.run_in(&["create", "--preserve-fds", "200", &bundle.id]);
    assert!(
        ran.err.contains("--preserve-fds") && ran.err.contains("is not open"),
        "{}",
        ran.err
    );
}

#[test]
fn configurations_for_what_is_not_there_are_refused() {
    for (place, value) in [
        ("/process/apparmorProfile", json!("docker-default")),
        ("/process/selinuxLabel", json!("system_u:system_r:container_t:s0")),
        ("/linux/intelRdt", json!({})),
        ("/vm", json!({})),
        ("/process/terminal", json!(true)),
        ("/process/args", json!([])),
    ] {
        let Some(bundle) = Bundle::script("true") else { return };
        bundle.change(|config| {
            let (parent, key) = place.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
        });
        let ran = bundle.create(&[]);
        let key = place.trim_start_matches('/').replace('/', ".");
        assert!(
            ran.code != 0 && ran.err.contains(&format!("config.json: {key}: ")),
            "{place}: {}",
            ran.err
        );
        assert_eq!(bundle.left(), Vec::<String>::new());
    }
}

#[test]
fn a_console_socket_takes_a_terminal() {
    let Some(bundle) = Bundle::script("true") else { return };
    let ran = bundle.create(&["--console-socket", "socket"]);
    assert!(
        ran.err
            .contains("process.terminal: is false, but there is a console socket"),
        "{}",
        ran.err
    );
}
