#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
//! The bytes of every message stand in `golden.txt`, one frame a line. A line never changes; new ones are added.
use super::{
    file::{self, Change, Changed, Entries, Entry, Kind as FileKind, Moved, Overflow, Status, What},
    machine::{self, Clocks},
    network::{self, LinkList, LinkStatus, PortList, PortStatus},
    process::{self, Exited, Process, Processes, Started, Streams, Window},
    wire::{self, Frame, HEADER, Kind, MAX_BODY, WireError},
    *,
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

const GOLDEN: &str = include_str!("golden.txt");

fn token(byte: u8) -> Token {
    Token([byte; 16])
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn processes() -> Vec<Request> {
    let streams = Streams {
        stdin: Some(token(1)),
        stdout: Some(token(2)),
        stderr: None,
    };
    let window = Window { rows: 24, columns: 80 };
    vec![
        Request::Exec(process::Exec {
            argv: vec![text("sh"), text("-c")],
            env: vec![(text("A"), text("b"))],
            cwd: Some(text("/srv")),
            user: Some(text("web:www")),
            terminal: Some(window),
            streams,
            keep_streams: true,
        }),
        Request::Wait(process::Wait { process: 7 }),
        Request::Signal(process::Signal {
            process: 7,
            signal: 15,
            group: true,
        }),
        Request::Resize(process::Resize { process: 7, window }),
        Request::Attach(process::Attach { process: 7, streams }),
        Request::Processes(process::List {}),
    ]
}

fn files() -> Vec<Request> {
    let (path, root, stream) = (text("/a"), Some(text("/r")), token(3));
    vec![
        Request::Stat(file::Stat {
            path: path.clone(),
            root: root.clone(),
            follow: true,
        }),
        Request::List(file::List {
            path: path.clone(),
            root: root.clone(),
        }),
        Request::Read(file::Read {
            path: path.clone(),
            root: root.clone(),
            offset: 1,
            length: Some(2),
            stream,
        }),
        Request::Write(file::Write {
            path: path.clone(),
            root: root.clone(),
            mode: Some(0o600),
            offset: Some(1),
            new: true,
            stream,
        }),
        Request::Mkdir(file::Mkdir {
            path: path.clone(),
            root: root.clone(),
            mode: Some(0o700),
            parents: true,
        }),
        Request::Rename(file::Rename {
            from: path.clone(),
            to: text("/b"),
            root: root.clone(),
        }),
        Request::Remove(file::Remove {
            path: path.clone(),
            root: root.clone(),
            recursive: true,
        }),
        Request::Watch(file::Watch {
            path: path.clone(),
            root: root.clone(),
            stream,
        }),
        Request::Pack(file::Pack {
            path: path.clone(),
            root: root.clone(),
            stream,
        }),
        Request::Unpack(file::Unpack {
            path,
            root,
            owners: true,
            stream,
        }),
    ]
}

fn network_and_machine() -> Vec<Request> {
    let root = Some(text("/r"));
    vec![
        Request::Mount(machine::Mount {
            source: text("/dev/vdb"),
            target: text("/srv"),
            kind: text("ext4"),
            flags: vec![text("ro")],
            data: text("barrier=1"),
            mkdir: true,
        }),
        Request::Umount(machine::Umount {
            target: text("/srv"),
            lazy: true,
        }),
        Request::Links(network::Links {}),
        Request::Link(network::Link {
            name: text("eth0"),
            up: Some(true),
            mtu: Some(1400),
            add: vec![text("10.0.0.2/24")],
            remove: vec![text("10.0.0.3/24")],
        }),
        Request::Route(network::Route {
            to: Some(text("10.1.0.0/16")),
            via: Some(text("10.0.0.1")),
            link: Some(text("eth0")),
            metric: Some(5),
            remove: true,
        }),
        Request::Dns(network::Dns {
            servers: vec![text("10.0.0.1")],
            search: vec![text("a.example")],
            options: vec![text("ndots:2")],
            root: root.clone(),
        }),
        Request::Hosts(network::Hosts {
            entries: vec![(text("10.0.0.2"), vec![text("box")])],
            name: Some(text("box")),
            root,
        }),
        Request::Ports(network::Ports {}),
        Request::Forward(network::Forward {
            port: 80,
            address: Some(text("::1")),
            stream: token(4),
        }),
        Request::Freeze(machine::Freeze { path: text("/srv") }),
        Request::Thaw(machine::Thaw { path: text("/srv") }),
        Request::Entropy(machine::Entropy { bytes: vec![1, 2, 3] }),
        Request::Clock(machine::Clock { set: Some(5) }),
        Request::Sync(machine::Sync {}),
        Request::Power(machine::Power {
            restart: true,
            grace_ms: 100,
        }),
    ]
}

fn answers() -> Vec<Answer> {
    let exited = Exited {
        code: 143,
        signal: Some(15),
    };
    let status = Status {
        kind: FileKind::Link,
        mode: 0o777,
        uid: 1,
        gid: 2,
        size: 3,
        modified: -4,
        target: Some(text("b")),
    };
    vec![
        Answer::Done(Done {}),
        Answer::Failed(Failed {
            reason: Reason::NotFound,
            text: text("no"),
            errno: Some(2),
            exit_code: Some(127),
        }),
        Answer::Started(Started { process: 7, pid: 100 }),
        Answer::Exited(exited),
        Answer::Processes(Processes {
            processes: vec![Process {
                process: 7,
                pid: 100,
                program: text("sh"),
                exited: Some(exited),
            }],
        }),
        Answer::Status(status.clone()),
        Answer::Entries(Entries {
            entries: vec![Entry {
                name: text("a"),
                status,
            }],
        }),
        Answer::Moved(Moved { bytes: 9 }),
        Answer::Links(LinkList {
            links: vec![LinkStatus {
                name: text("lo"),
                index: 1,
                up: true,
                carrier: true,
                mtu: 65_536,
                mac: text("00:00:00:00:00:00"),
                addresses: vec![text("127.0.0.1/8")],
            }],
        }),
        Answer::Ports(PortList {
            ports: vec![PortStatus {
                port: 22,
                address: text("::"),
                uid: 0,
            }],
        }),
        Answer::Clock(Clocks { now: 1, boot: 2 }),
    ]
}

fn hello() -> Notice {
    Notice::Hello(Hello {
        generation: 1,
        capabilities: vec![text(capability::EXEC)],
        timings: Timings {
            kernel: 1,
            init: 2,
            modules: 3,
            ready: 4,
        },
        kernel: text("6.1"),
        version: text("0.1.0"),
    })
}

fn changes() -> Vec<Change> {
    vec![
        Change::Changed(Changed {
            what: What::MovedTo,
            name: text("a"),
            folder: true,
            cookie: 3,
        }),
        Change::Overflow(Overflow {}),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Writes a message, reads it back, and answers its line.
fn line<M: Serialize + DeserializeOwned + PartialEq + Debug>(kind: Kind, message: &M) -> String {
    let bytes = wire::encode(0x0102_0304, kind, message).unwrap();
    let frame = wire::read(&mut bytes.as_slice()).unwrap().unwrap();
    assert_eq!((frame.number, frame.kind), (0x0102_0304, kind));
    assert_eq!(&frame.message::<M>().unwrap(), message);
    hex(&bytes)
}

#[test]
fn every_message_has_its_bytes() {
    let requests = [processes(), files(), network_and_machine()].concat();
    let mut lines: Vec<String> = requests.iter().map(|request| line(Kind::Request, request)).collect();
    lines.extend(answers().iter().map(|answer| line(Kind::Answer, answer)));
    lines.push(line(Kind::Notice, &hello()));
    lines.extend(changes().iter().map(|change| line(Kind::Notice, change)));
    lines.push(line(Kind::Part, &Answer::Entries(Entries::default())));
    let lines = lines.join("\n") + "\n";
    assert!(lines == GOLDEN, "the bytes are now:\n{lines}");
}

/// Written down by hand from RFC 8949, so that the library is not its own judge.
#[test]
fn a_frame_is_what_the_specification_says() {
    let bytes = b"\x00\x00\x00\x12\x00\x00\x00\x05\x00\xa1\x64wait\xa1\x67process\x18\x2a";
    let request = Request::Wait(process::Wait { process: 42 });
    let mut written = bytes.to_vec();
    written[3] = (written.len() - HEADER) as u8;
    assert_eq!(wire::encode(5, Kind::Request, &request).unwrap(), written);
}

#[test]
fn every_request_and_answer_stands_in_the_list() {
    let names = |lines: Vec<String>| {
        let mut names: Vec<String> = lines;
        names.sort();
        names.dedup();
        names.len()
    };
    let requests = [processes(), files(), network_and_machine()].concat();
    let variants = requests
        .iter()
        .map(|request| format!("{:?}", std::mem::discriminant(request)));
    assert_eq!(names(variants.collect()), 31);
    let variants = answers()
        .iter()
        .map(|answer| format!("{:?}", std::mem::discriminant(answer)))
        .collect();
    assert_eq!(names(variants), 11);
}

fn decode<M: DeserializeOwned>(value: &ciborium::Value) -> Result<M, WireError> {
    let mut body = Vec::new();
    ciborium::into_writer(value, &mut body).unwrap();
    Frame {
        number: 1,
        kind: Kind::Request,
        body,
    }
    .message()
}

#[test]
fn a_newer_peer_may_say_more_and_an_older_one_less() {
    use ciborium::cbor;
    let more = cbor!({"exec" => {"argv" => ["a"], "priority" => 3, "later" => {"x" => [1]}}}).unwrap();
    let expected = Request::Exec(process::Exec {
        argv: vec![text("a")],
        ..process::Exec::default()
    });
    assert_eq!(decode::<Request>(&more).unwrap(), expected);
    let kind = cbor!({"failed" => {"reason" => "out-of-paper", "text" => "x"}}).unwrap();
    let Answer::Failed(failed) = decode(&kind).unwrap() else {
        panic!("another answer")
    };
    assert_eq!((failed.reason, failed.errno), (Reason::Unknown, None));
    let unknown = cbor!({"fly" => {"to" => "moon"}}).unwrap();
    assert!(matches!(decode::<Request>(&unknown), Err(WireError::Malformed(_))));
}

#[test]
fn a_frame_is_bounded_both_ways() {
    let huge = Request::Stat(file::Stat {
        path: "x".repeat(MAX_BODY),
        ..file::Stat::default()
    });
    assert!(matches!(
        wire::encode(1, Kind::Request, &huge),
        Err(WireError::TooLong(_))
    ));
    let announced = [0xff; HEADER];
    assert!(matches!(
        wire::read(&mut announced.as_slice()),
        Err(WireError::TooLong(_))
    ));
    assert!(wire::read(&mut [].as_slice()).unwrap().is_none());
    assert!(matches!(wire::read(&mut [0, 0].as_slice()), Err(WireError::Io(_))));
    let cut = wire::encode(1, Kind::Answer, &Answer::Done(Done {})).unwrap();
    assert!(matches!(wire::read(&mut &cut[..cut.len() - 1]), Err(WireError::Io(_))));
}

#[test]
fn preambles_and_tokens_are_read_back() {
    for preamble in [Preamble::Control(token(9)), Preamble::Stream(token(8))] {
        assert_eq!(Preamble::decode(&preamble.encode()), Some(preamble));
    }
    assert_eq!(&Preamble::Stream(token(0x61)).encode(), b"str1aaaaaaaaaaaaaaaa");
    assert_eq!(Preamble::decode(&[0; Preamble::LEN]), None);
    let token = Token::parse("000102030405060708090a0b0c0D0E0F").unwrap();
    assert_eq!(token.to_hex(), "000102030405060708090a0b0c0d0e0f");
    for wrong in [
        "",
        "00",
        "000102030405060708090a0b0c0d0e0",
        "000102030405060708090a0b0c0d0e0g",
        "+00102030405060708090a0b0c0d0e0f",
    ] {
        assert_eq!(Token::parse(wrong), None, "{wrong:?}");
    }
    assert_eq!(format!("{token:?}"), "Token(..)");
}
