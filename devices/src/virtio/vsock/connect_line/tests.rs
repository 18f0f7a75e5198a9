use super::*;

fn whole(line: &str) -> Progress {
    ConnectLine::new().feed(line.as_bytes())
}

fn call(port: u32, wait: Option<u64>, used: usize) -> Progress {
    let wait = wait.map(Duration::from_millis);
    Progress::Complete {
        call: Call { port, wait },
        used,
    }
}

#[test]
fn lines_that_ask_for_a_connection() {
    assert_eq!(whole("CONNECT 52\n"), call(52, None, 11));
    assert_eq!(whole("connect 52\nGET /\n"), call(52, None, 11));
    assert_eq!(whole("Connect  0 \r\n"), call(0, None, 13));
    assert_eq!(whole("CONNECT 4294967294\n"), call(u32::MAX - 1, None, 19));
    assert_eq!(whole("CONNECT 52 WAIT 1500\n"), call(52, Some(1500), 21));
    assert_eq!(whole("CONNECT 52 wait 0\n"), call(52, Some(0), 18));
}

#[test]
fn lines_that_do_not() {
    for line in [
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT x\n",
        "CONNECT -1\n",
        "CONNECT +1\n",
        "CONNECT 4294967295\n",
        "CONNECT 99999999999999999999999\n",
        "CONNECT 1 2\n",
        "CONNECT 1 WAIT\n",
        "CONNECT 1 WAIT x\n",
        "CONNECT 1 WAIT 86400001\n",
        "CONNECT 1 WAIT 1 2\n",
        "CONNECTED 1\n",
        "\u{fffd}\n",
    ] {
        let progress = whole(line);
        assert!(
            matches!(progress, Progress::Malformed(why) if why.starts_with("ERROR ") && why.ends_with('\n')),
            "{line:?}: {progress:?}"
        );
    }
    assert!(matches!(ConnectLine::new().feed(b"\xff\xfe\n"), Progress::Malformed(_)));
}

#[test]
fn a_line_comes_in_any_pieces() {
    let text = b"CONNECT 52 WAIT 7\nrest";
    for first in 0..18 {
        for second in first..18 {
            let mut line = ConnectLine::new();
            assert_eq!(line.feed(&text[..first]), Progress::More);
            assert_eq!(line.feed(&text[first..second]), Progress::More);
            assert_eq!(line.feed(&text[second..]), call(52, Some(7), 18 - second));
        }
    }
}

#[test]
fn a_line_has_an_end() {
    let mut line = ConnectLine::new();
    assert_eq!(line.feed(&[b' '; MAX_LINE - 1]), Progress::More);
    assert_eq!(line.room(), 1);
    assert_eq!(line.feed(b" "), Progress::Malformed(TOO_LONG));
    assert_eq!(
        ConnectLine::new().feed(&[b' '; MAX_LINE + 1]),
        Progress::Malformed(TOO_LONG)
    );
}
