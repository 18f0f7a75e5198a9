//! Terminals: their master goes to whoever asked for it.
use crate::bundle::Bundle;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::{
    fs::File,
    io::{IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::unix::net::UnixListener,
};

fn master_of(listener: &UnixListener) -> File {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut name)];
    recvmsg(&stream, &mut parts, &mut rights, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    assert!(name.starts_with(b"/dev/pts/"));
    File::from(fd.unwrap())
}

/// Until the other end is closed, which a terminal tells by an error.
fn read_all(mut master: &File) -> String {
    let mut said = Vec::new();
    let _ = master.read_to_end(&mut said);
    String::from_utf8_lossy(&said).replace("\r\n", "\n")
}

#[test]
fn the_console_socket_gets_the_master() {
    let bundle = Bundle::new(|config| {
        let script = "tty; stty size; test -c /dev/console && echo console; read line; echo got $line";
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    });
    let Some(bundle) = bundle else { return };
    assert!(
        bundle
            .create(&[])
            .err
            .contains("process.terminal: is true: give a socket with --console-socket")
    );
    // Longer than a socket's address may be.
    let folder = bundle.path.join("x".repeat(120));
    std::fs::create_dir(&folder).unwrap();
    let listener = UnixListener::bind(bundle.path.join("socket")).unwrap();
    std::fs::hard_link(bundle.path.join("socket"), folder.join("socket")).unwrap();
    let path = folder.join("socket");
    let created = bundle.create(&["--console-socket", path.to_str().unwrap()]);
    assert_eq!((created.code, created.err.as_str()), (0, ""));
    let mut master = master_of(&listener);
    bundle.must("start", &[]);
    master.write_all(b"hello\n").unwrap();
    let said = read_all(&master);
    assert!(
        said.starts_with("hello\n/dev/pts/0\n33 77\nconsole\n") || said.contains("/dev/pts/0\n33 77\n"),
        "{said:?}"
    );
    assert!(said.contains("console\n") && said.ends_with("got hello\n"), "{said:?}");
}

#[test]
fn a_further_process_has_a_terminal_of_its_own() {
    let Some(bundle) = Bundle::script("sleep 60") else {
        return;
    };
    assert_eq!(bundle.create(&[]).code, 0);
    bundle.must("start", &[]);
    let listener = UnixListener::bind(bundle.path.join("socket")).unwrap();
    let flags = [
        "exec",
        "--detach",
        "--tty",
        "--console-socket",
        "socket",
        &bundle.id,
        "sh",
        "-c",
        "tty; exit 3",
    ];
    let ran = bundle.run_in(&flags);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(read_all(&master_of(&listener)), "/dev/pts/0\n");
}
