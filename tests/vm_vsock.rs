//! The vsock device with a stock kernel's driver: streams both ways, their ends, refusals, many at once, pauses and resets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod inside;
    pub mod run;
    pub mod tiny;
    pub mod vsock;
}
use coracle::{
    builder::build,
    config::{
        self,
        spec::{SerialInput, SerialOutput, SerialSpec},
    },
    vm::Vm,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::LazyLock,
    thread,
    time::Duration,
};
use support::{
    inside,
    tiny::Folder,
    vsock::{HOST, Listener, connect},
};

/// How long the slowest step may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The port of the host that the guest dials to be told what to do.
const CONTROL: u32 = 52;
/// The port of the guest that sends everything back.
const ECHO: u32 = 1000;

/// The guest's part: does what it is told line by line, and answers each line.
#[test]
fn guest() {
    if !inside::is_inside() {
        return;
    }
    allow_many_files();
    serve(ECHO);
    let control = connect(HOST, CONTROL).unwrap();
    let mut answers = control.try_clone().unwrap();
    for line in BufReader::new(control).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        let answer = match words[0] {
            "listen" => {
                serve(number(1));
                "listens".to_owned()
            }
            "dial" => match connect(HOST, number(1)) {
                Ok(stream) => talk(stream, number(2) as usize),
                Err(error) => format!("{:?}", error.kind()),
            },
            other => panic!("{other:?} is no order"),
        };
        writeln!(answers, "{answer}").unwrap();
    }
}

/// Sends back what comes on each connection to `port`, end included.
fn serve(port: u32) {
    let listener = Listener::bind(port).unwrap();
    thread::spawn(move || {
        loop {
            let mut stream = listener.accept().unwrap();
            let echo = move || {
                let mut bytes = vec![0; 16 << 10];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..n]).is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown(Shutdown::Write);
            };
            thread::Builder::new().stack_size(64 << 10).spawn(echo).unwrap();
        }
    });
}

/// Sends a stream and its end, and reads one of the same length until its end; says whether that was right.
fn talk(stream: UnixStream, len: usize) -> String {
    let reading = read_pattern(stream.try_clone().unwrap());
    write_pattern(&stream, len);
    format!("{:?}", reading.join().unwrap() == Some(len))
}

/// The bytes of a stream, which repeat after a prime number of them. Copied from a table, for an emulated guest is slow.
fn pattern(mut at: usize, len: usize) -> Vec<u8> {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let byte = |at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8;
        (0..65_521).map(byte).collect()
    });
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let rest = &TABLE[at % TABLE.len()..];
        let n = rest.len().min(len - bytes.len());
        bytes.extend_from_slice(&rest[..n]);
        at += n;
    }
    bytes
}

/// Writes in pieces of all sizes, and ends.
fn write_pattern(mut stream: &UnixStream, len: usize) {
    let (mut at, mut state) = (0, 1_usize);
    while at < len {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let piece = (1 + (state >> 40) % 150_000).min(len - at);
        stream.write_all(&pattern(at, piece)).unwrap();
        at += piece;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end; the length, if all bytes were right.
fn read_pattern(mut stream: UnixStream) -> thread::JoinHandle<Option<usize>> {
    thread::spawn(move || {
        let (mut bytes, mut at) = (vec![0; 100_000], 0);
        loop {
            match stream.read(&mut bytes).unwrap() {
                0 => return Some(at),
                n if bytes[..n] == pattern(at, n) => at += n,
                _ => return None,
            }
        }
    })
}

/// A thousand connections are more than the usual limit allows, on either side.
fn allow_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

struct Machine {
    folder: Folder,
    vm: Vm,
    control: BufReader<UnixStream>,
}

impl Machine {
    /// A guest that waits for orders.
    fn start() -> Self {
        let folder = Folder::new("vsock");
        let bundle = inside::bundle_with_this(&folder);
        let config = format!(
            r#"{{"boot-source": {{"kernel_bundle": "{}", "command": ["sh", "-c", "{}"]}},
                "machine-config": {{"vcpu_count": 1, "mem_size_mib": 256}},
                "vsock": {{"guest_cid": 3, "uds_path": "{}"}}}}"#,
            bundle.display(),
            inside::command("guest"),
            folder.join("v").display()
        );
        let mut spec = config::parse(&config).unwrap();
        spec.serial = SerialSpec {
            input: SerialInput::None,
            output: SerialOutput::File(folder.join("console")),
        };
        let listener = UnixListener::bind(folder.join(format!("v_{CONTROL}"))).unwrap();
        let vm = build(spec).unwrap();
        vm.start().unwrap();
        let control = accept(&listener, &folder.join("console"));
        Self {
            folder,
            vm,
            control: BufReader::new(control),
        }
    }

    fn order(&mut self, line: &str) {
        writeln!(self.control.get_mut(), "{line}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// A program's connection to a port of the guest, asked for by `line`.
    fn call(&self, line: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.join("v")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream
    }

    fn echo(&self) -> UnixStream {
        let stream = self.call("CONNECT 1000\n");
        expect_ok(&stream);
        stream
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.join(format!("v_{port}"))).unwrap()
    }
}

/// Waits for the guest to connect; shows its console if it does not.
fn accept(listener: &UnixListener, console: &PathBuf) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    for _ in 0..2400 {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            return stream;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "the guest does not connect; its console:\n{}",
        String::from_utf8_lossy(&fs::read(console).unwrap())
    );
}

/// Reads the answer to CONNECT, byte by byte, for the guest's first bytes may follow.
fn expect_ok(mut stream: &UnixStream) {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "after {:?}",
            String::from_utf8_lossy(&line)
        );
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "));
}

#[test]
fn host_and_guest_talk() {
    if inside::is_inside() {
        return;
    }
    allow_many_files();
    let mut machine = Machine::start();
    streams_go_both_ways(&mut machine);
    refusals_are_told(&mut machine);
    waiting_is_answered_when_the_guest_listens(&mut machine);
    hundreds_of_connections_are_open_at_once(&machine);
    a_pause_loses_nothing(&machine);
    machine.vm.stop();
    let socket = machine.folder.join("v");
    drop(machine.vm);
    assert!(!socket.exists());
}

fn streams_go_both_ways(machine: &mut Machine) {
    let len = 2 << 20;
    assert_eq!(talk(machine.echo(), len), "true");
    let server = machine.listen(53);
    machine.order(&format!("dial 53 {len}"));
    let stream = accept(&server, &machine.folder.join("console"));
    assert_eq!(talk(stream, len), "true");
    assert_eq!(machine.answer(), "true");
}

fn refusals_are_told(machine: &mut Machine) {
    assert_eq!(machine.call("CONNECT 77\n").read(&mut [0; 8]).unwrap(), 0);
    machine.order("dial 77 1");
    assert_eq!(machine.answer(), "ConnectionReset");
}

fn waiting_is_answered_when_the_guest_listens(machine: &mut Machine) {
    let waiting = machine.call("CONNECT 1001 WAIT 600000\n");
    thread::sleep(Duration::from_millis(200));
    machine.order("listen 1001");
    assert_eq!(machine.answer(), "listens");
    expect_ok(&waiting);
    assert_eq!(talk(waiting, 10_000), "true");
    assert_eq!(machine.call("CONNECT 78 WAIT 300\n").read(&mut [0; 8]).unwrap(), 0);
}

/// A guest of this size can have no thousand threads; the device alone is put to that test.
fn hundreds_of_connections_are_open_at_once(machine: &Machine) {
    let streams: Vec<_> = (0..300).map(|_| machine.call("CONNECT 1000\n")).collect();
    for (n, mut stream) in streams.iter().enumerate() {
        expect_ok(stream);
        write!(stream, "{n:04}").unwrap();
    }
    for (n, mut stream) in streams.iter().enumerate() {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *format!("{n:04}").as_bytes());
    }
}

fn a_pause_loses_nothing(machine: &Machine) {
    let stream = machine.echo();
    let talking = thread::spawn(move || talk(stream, 2 << 20));
    let mut pauses = 0;
    while !talking.is_finished() {
        machine.vm.pause().unwrap();
        thread::sleep(Duration::from_millis(5));
        machine.vm.resume().unwrap();
        thread::sleep(Duration::from_millis(5));
        pauses += 1;
    }
    assert_eq!(talking.join().unwrap(), "true");
    assert!(pauses > 3, "{pauses}");
}
