use super::*;

#[test]
fn ports_are_named_as_passt_reads_them() {
    let forward = |address: Option<&str>, host, guest| Forward {
        address: address.and_then(|text| text.parse().ok()),
        host,
        guest,
    };
    let tcp = [forward(None, 8080, 80), forward(Some("127.0.0.1"), 22, 22)];
    let all = arguments(&tcp, &[forward(Some("::1"), 53, 5353)], Some(9000));
    let ports: Vec<_> = all.iter().skip_while(|word| !word.starts_with("--tcp")).collect();
    assert_eq!(
        ports,
        [
            "--tcp-ports",
            "8080:80",
            "--tcp-ports",
            "127.0.0.1/22:22",
            "--udp-ports",
            "::1/53:5353"
        ]
    );
    assert_eq!(all[..6], ["--foreground", "--stderr", "--fd", "0", "--mtu", "9000"]);
    assert!(
        !arguments(&[], &[], None)
            .iter()
            .any(|word| word.contains("mtu") || word.contains("ports"))
    );
}
