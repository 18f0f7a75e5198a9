//! Processes in a guest by its agent: streams, ends, terminals, signals, and hundreds at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod agent;
    pub mod run;
    pub mod tiny;
}
use coracle::agent::{Agent, ExecSpec, Reason, Window};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};
use support::agent::{LIMIT, Machine, out, sh};

#[test]
fn host_and_agent_work_together() {
    let machine = Machine::start();
    let agent = &machine.agent;
    it_says_hello(agent);
    it_takes_little_memory(agent);
    commands_run(agent);
    failures_are_a_shells(agent);
    input_ends_by_half_close(agent);
    a_terminal_is_one(agent);
    a_process_can_be_killed_and_attached_to(agent);
    a_pipe_loses_nothing(agent);
    a_pipe_is_no_bottleneck(agent);
    five_hundred_commands_at_once_lose_nothing(agent);
    machine.vm.stop();
    drop(machine.agent);
    drop(machine.listening);
    let until = Instant::now() + LIMIT;
    while machine.folder.join("v_2620").exists() {
        assert!(Instant::now() < until, "the socket stays");
        thread::sleep(Duration::from_millis(1));
    }
}

fn it_says_hello(agent: &Agent) {
    let hello = agent.hello();
    let times = hello.timings;
    assert!(
        0 < times.init && times.init <= times.modules && times.modules <= times.ready,
        "{times:?}"
    );
    assert!(times.kernel > 1_600_000_000_000_000_000, "{times:?}");
    assert!(hello.capabilities.iter().any(|name| name == "exec"), "{hello:?}");
    println!("{hello:?}");
}

fn it_takes_little_memory(agent: &Agent) {
    let rollup = out(agent, "cat /proc/1/smaps_rollup");
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    println!("memory of the agent: {}", pss.trim());
    let kib: u32 = pss.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib <= 3 << 10, "{rollup}");
}

fn commands_run(agent: &Agent) {
    let output = agent
        .exec(&sh("echo out; echo err >&2; exit 3"))
        .unwrap()
        .output()
        .unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!((output.exit.code, output.exit.signal), (3, None));
    let mut spec = sh("echo $A:$PATH:$HOME:$(pwd):$(id -u):$(id -g):$(ulimit -n)");
    spec.env = vec![("A".into(), "b c".into())];
    spec.cwd = Some("/proc".into());
    spec.user = Some("12:34".into());
    let output = agent.exec(&spec).unwrap().output().unwrap();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("b c:{path}:/:/proc:12:34:1024\n")
    );
}

fn failures_are_a_shells(agent: &Agent) {
    let fail = |argv: &[&str]| agent.exec(&ExecSpec::new(argv.iter().copied())).err().unwrap();
    let error = fail(&["no-such-program"]);
    assert_eq!((error.exit_code(), error.reason()), (Some(127), Some(Reason::NotFound)));
    assert!(error.to_string().contains("no-such-program"), "{error}");
    out(agent, "echo '#!/bin/sh' > /tmp/plain; chmod 644 /tmp/plain");
    let error = fail(&["/tmp/plain"]);
    assert_eq!((error.exit_code(), error.reason()), (Some(126), Some(Reason::Denied)));
    assert_eq!(fail(&[]).reason(), Some(Reason::Invalid));
    let nowhere = ExecSpec {
        cwd: Some("/nowhere".into()),
        ..sh("true")
    };
    let error = agent.exec(&nowhere).err().unwrap();
    assert!(
        error.exit_code().is_none() && error.to_string().contains("/nowhere"),
        "{error}"
    );
}

fn input_ends_by_half_close(agent: &Agent) {
    let mut process = agent.exec(&sh("cat; echo end").with_stdin()).unwrap();
    let stdin = process.stdin.take().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    (&stdin).write_all(b"one\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    (&stdin).write_all(b"two").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    line.clear();
    stdout.read_to_string(&mut line).unwrap();
    assert_eq!(line, "twoend\n");
    assert_eq!(process.wait().unwrap().code, 0);
}

fn a_terminal_is_one(agent: &Agent) {
    let window = |rows, columns| Window { rows, columns };
    let script = "stty size; trap 'stty size; exit 5' WINCH; read x; echo got $x; while :; do sleep 0.1; done";
    let mut process = agent.exec(&sh(script).on_terminal(window(40, 100))).unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(next(), "40 100");
    stdin.write_all(b"hi\n").unwrap();
    assert_eq!((next().as_str(), next().as_str()), ("hi", "got hi"));
    process.resize(window(30, 90)).unwrap();
    assert_eq!(next(), "30 90");
    assert_eq!(process.wait().unwrap().code, 5);
    // The end of the input is the character for it.
    let mut process = agent.exec(&sh("cat; echo end").on_terminal(window(24, 80))).unwrap();
    process.stdin.take().unwrap().shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    process.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), process.wait().unwrap().code), ("end\r\n", 0));
}

fn a_process_can_be_killed_and_attached_to(agent: &Agent) {
    let process = agent.exec(&sh("exec sleep 1000")).unwrap();
    process.signal(15).unwrap();
    let exit = process.wait().unwrap();
    assert_eq!((exit.code, exit.signal), (143, Some(15)));
    assert_eq!(process.wait().err().unwrap().reason(), Some(Reason::NotFound));
    assert_eq!(process.signal(15).err().unwrap().reason(), Some(Reason::NotFound));

    let kept = ExecSpec {
        keep_streams: true,
        ..sh("while read x; do echo got $x; done; exit 9").with_stdin()
    };
    let mut first = agent.exec(&kept).unwrap();
    first.stdin.as_mut().unwrap().write_all(b"1\n").unwrap();
    let mut line = [0; 6];
    first.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"got 1\n");
    let busy = agent.attach(first.id(), [false, true, false]).err().unwrap();
    assert_eq!(busy.reason(), Some(Reason::Busy));
    drop(first.stdout.take());
    let until = Instant::now() + LIMIT;
    let mut second = loop {
        match agent.attach(first.id(), [false, true, false]) {
            Ok(process) => break process,
            Err(error) => assert!(
                error.reason() == Some(Reason::Busy) && Instant::now() < until,
                "{error}"
            ),
        }
        thread::sleep(Duration::from_millis(20));
    };
    let listed = agent.processes().unwrap();
    assert!(
        listed
            .iter()
            .any(|known| known.process == first.id() && known.exited.is_none())
    );
    first.stdin.as_mut().unwrap().write_all(b"2\n").unwrap();
    drop(first.stdin.take());
    let mut rest = String::new();
    second.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), second.wait().unwrap().code), ("got 2\n", 9));
}

/// Bytes that repeat after a prime number of them.
fn pattern(len: usize) -> Vec<u8> {
    let byte = |at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8;
    (0..65_521).map(byte).cycle().take(len).collect()
}

fn a_pipe_loses_nothing(agent: &Agent) {
    const LEN: usize = 64 << 20;
    let bytes = pattern(LEN);
    let start = Instant::now();
    let mut process = agent.exec(&ExecSpec::new(["cat"]).with_stdin()).unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut stdout = process.stdout.take().unwrap();
    let reading = thread::spawn(move || {
        let mut back = Vec::with_capacity(LEN);
        stdout.read_to_end(&mut back).unwrap();
        back
    });
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    let back = reading.join().unwrap();
    assert!(back == bytes, "{} of {LEN} bytes came back", back.len());
    assert_eq!(process.wait().unwrap().code, 0);
    println!("64 MiB through cat: {:?}", start.elapsed());
}

/// How fast bytes come through a pipe, beside those that the agent itself sends.
fn a_pipe_is_no_bottleneck(agent: &Agent) {
    const LEN: u64 = 64 << 20;
    let timed = |work: &dyn Fn() -> u64| {
        let start = Instant::now();
        assert_eq!(work(), LEN);
        start.elapsed()
    };
    for _ in 0..2 {
        let plain = timed(&|| {
            let mut download = agent.files().open("/dev/zero", 0, Some(LEN)).unwrap();
            io::copy(&mut download, &mut io::sink()).unwrap();
            download.finish().unwrap()
        });
        let piped = timed(&|| {
            let mut spec = ExecSpec::new(["dd", "if=/dev/zero", "bs=64k", "count=1024"]);
            spec.stderr = false;
            let mut process = agent.exec(&spec).unwrap();
            let count = io::copy(&mut process.stdout.take().unwrap(), &mut io::sink()).unwrap();
            assert_eq!(process.wait().unwrap().code, 0);
            count
        });
        println!("64 MiB from the agent: {plain:?}, through a pipe: {piped:?}");
    }
    let start = Instant::now();
    for _ in 0..20 {
        out(agent, ":");
    }
    println!("a command: {:?}", start.elapsed() / 20);
}

fn five_hundred_commands_at_once_lose_nothing(agent: &Agent) {
    let start = Instant::now();
    thread::scope(|threads| {
        for n in 0..500 {
            let work = move || {
                let output = agent
                    .exec(&sh(&format!("echo {n}; exit $(({n} % 200))")))
                    .unwrap()
                    .output()
                    .unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{n}\n"));
                assert_eq!(usize::from(output.exit.code), n % 200);
            };
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(threads, work)
                .unwrap();
        }
    });
    assert_eq!(agent.processes().unwrap(), []);
    println!("500 commands: {:?}", start.elapsed());
}
