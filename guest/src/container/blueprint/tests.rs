use super::*;

fn refusal(change: &str) -> String {
    let mut config: serde_json::Value = serde_json::json!({
        "ociVersion": "1.2.0",
        "root": { "path": "." },
        "process": { "args": ["sh"], "cwd": "/" },
        "linux": {},
    });
    let change: serde_json::Value = serde_json::from_str(change).unwrap();
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    match Blueprint::new(&std::env::temp_dir(), config.to_string().as_bytes()) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_plain_configuration_is_taken() {
    assert_eq!(refusal("{}"), "");
    assert_eq!(refusal(r#"{"aKeyOfLaterVersions": 1}"#), "");
}

#[test]
fn what_is_not_done_is_refused_by_its_key() {
    for (change, key) in [
        (r#"{"vm": {}}"#, "vm"),
        (r#"{"linux": {"intelRdt": {}}}"#, "linux.intelRdt"),
        (r#"{"linux": {"memoryPolicy": {}}}"#, "linux.memoryPolicy"),
        (r#"{"linux": {"netDevices": {"eth0": {}}}}"#, "linux.netDevices"),
        (r#"{"linux": {"mountLabel": "x"}}"#, "linux.mountLabel"),
        (
            r#"{"process": {"args": ["x"], "cwd": "/", "apparmorProfile": "p"}}"#,
            "process.apparmorProfile",
        ),
        (
            r#"{"process": {"args": ["x"], "cwd": "/", "selinuxLabel": "l"}}"#,
            "process.selinuxLabel",
        ),
        (r#"{"ociVersion": "2.0.0"}"#, "ociVersion"),
        (r#"{"ociVersion": "1"}"#, "ociVersion"),
        (r#"{"root": null}"#, "root"),
        (r#"{"hostname": "h"}"#, "hostname"),
        (r#"{"domainname": "d"}"#, "domainname"),
        (r#"{"hooks": {"poststop": [{"path": "x"}]}}"#, "hooks.poststop[0].path"),
    ] {
        let refusal = refusal(change);
        assert!(
            refusal.starts_with(&format!("config.json: {key}: ")),
            "{change}: {refusal}"
        );
    }
}

#[test]
fn kernel_parameters_of_the_host_are_not_touched() {
    let linux: Linux = serde_json::from_str(r#"{"namespaces": [{"type": "network"}, {"type": "ipc"}]}"#).unwrap();
    let plan = Plan::new(&linux).unwrap();
    let path = |key| sysctl(key, "1", &plan).map(|(path, _)| path.display().to_string());
    assert_eq!(path("net.ipv4.ip_forward").unwrap(), "/proc/sys/net/ipv4/ip_forward");
    assert_eq!(
        path("net.ipv4.conf.eth0/1.proxy_arp").unwrap(),
        "/proc/sys/net/ipv4/conf/eth0.1/proxy_arp"
    );
    assert_eq!(
        path("net/ipv4/conf/eth0.1/proxy_arp").unwrap(),
        "/proc/sys/net/ipv4/conf/eth0.1/proxy_arp"
    );
    assert_eq!(path("kernel.msgmax").unwrap(), "/proc/sys/kernel/msgmax");
    for key in [
        "kernel.panic",
        "vm.swappiness",
        "kernel.hostname",
        "net/../kernel/panic",
        "net..x",
        "",
    ] {
        assert!(path(key).is_err(), "{key}");
    }
}
