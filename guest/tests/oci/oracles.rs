//! What crun and runc make of a bundle is what coracle-oci makes of it.
use crate::bundle::Bundle;
use serde_json::json;

/// Everything about a process that a container's configuration decides, as it sees itself.
const LOOK: &str = "id; pwd; umask; hostname; env | grep -v ^container= ; \
    grep -e '^Cap' -e NoNewPrivs -e '^Seccomp:' -e '^[UG]id' -e Groups /proc/self/status; \
    cat /proc/self/limits; cat /proc/self/oom_score_adj; ls /proc/self/fd; ls /dev | grep -v core; \
    ip -o addr show lo; exit 9";

fn compare(change: impl FnOnce(&mut serde_json::Value)) {
    let bundle = Bundle::new(|config| {
        config["process"]["args"] = json!(["sh", "-c", LOOK]);
        config["process"]["env"].as_array_mut().unwrap().push(json!("HOME=/"));
        config["linux"]["resources"] = json!({});
        // The one that all of them know.
        config["ociVersion"] = json!("1.0.2");
        change(config);
    });
    let Some(bundle) = bundle else { return };
    let ours = bundle.run();
    assert_eq!((ours.code, ours.err.as_str()), (9, ""), "{}", ours.out);
    for oracle in ["crun", "runc"] {
        let Some(other) = bundle.with(oracle) else { continue };
        let theirs = other.run();
        if theirs.code != 9 {
            eprintln!("skipped: {oracle} cannot run the bundle here: {}", theirs.err);
            continue;
        }
        assert_eq!(ours.out, theirs.out, "{oracle}");
    }
}

#[test]
fn a_plain_container_is_the_same() {
    compare(|_| ());
}

#[test]
fn a_container_of_another_user_is_the_same() {
    compare(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "umask": 0o77, "additionalGids": [5] });
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["oomScoreAdj"] = json!(100);
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
        ]);
    });
}

#[test]
fn a_container_with_a_filter_is_the_same() {
    compare(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }],
        });
    });
}

#[test]
fn states_are_told_alike() {
    let Some(bundle) = Bundle::script("sleep 60") else {
        return;
    };
    bundle.change(|config| {
        config["annotations"] = json!({ "a": "b" });
        config["ociVersion"] = json!("1.0.2");
        config["linux"]["resources"] = json!({});
    });
    for oracle in ["crun", "runc"] {
        let Some(other) = bundle.with(oracle) else { continue };
        let created = other.create(&[]);
        if created.code != 0 {
            eprintln!("skipped: {oracle} cannot create the bundle here: {}", created.err);
            continue;
        }
        assert_eq!(bundle.create(&[]).code, 0);
        for key in ["status", "bundle", "annotations", "owner"] {
            let (ours, theirs) = (bundle.state(), other.state());
            if !theirs[key].is_null() && theirs[key] != "" {
                assert_eq!(ours[key], theirs[key], "{oracle}: {key}");
            }
        }
        bundle.must("delete", &["--force"]);
    }
}
