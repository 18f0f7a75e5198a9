//! Connections to the host: streams both ways, and round trips of one byte.
use super::{steps::Steps, wait_for};
use crate::Outcome;
use coracle_measure::io::{GUEST_ADDRESS, HOST_ADDRESS, Service};
use rustix::{
    fd::AsFd,
    net::{Shutdown, shutdown},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::Duration,
};

/// Bytes that a program writes or reads at once, and how often in one pass.
const PIECE: usize = 64 << 10;
const PIECES: u64 = 2048;
const TRIPS: u64 = 1000;

pub(crate) fn work() -> Outcome<()> {
    wait_for("/sys/class/net/eth0")?;
    let address = format!("{GUEST_ADDRESS}/24");
    for words in [
        &["ip", "link", "set", "lo", "up"][..],
        &["ip", "address", "add", &address, "dev", "eth0"],
        &["ip", "link", "set", "eth0", "up"],
    ] {
        let output = Command::new("/bin/busybox").args(words).output()?;
        if !output.status.success() {
            return Err(format!(
                "{}: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            )
            .into());
        }
    }
    let connect = |service: Service| {
        let mut last = None;
        for _ in 0..50 {
            match TcpStream::connect((HOST_ADDRESS, service.port())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("cannot connect: {last:?}").into())
    };
    streams(&connect)
}

/// All steps, on connections of any kind.
pub(crate) fn streams<S: Read + Write + AsFd>(connect: &dyn Fn(Service) -> Outcome<S>) -> Outcome<()> {
    let mut piece = vec![0x5a; PIECE];
    // Whatever the first connection has to find out first is not of the step without work.
    drop(connect(Service::Echo)?);
    let steps = Steps::begin()?;
    steps.twice("send", (PIECES, PIECE as u64), || {
        let mut stream = connect(Service::Sink)?;
        for _ in 0..PIECES {
            stream.write_all(&piece)?;
        }
        shutdown(&stream, Shutdown::Write)?;
        Ok(stream.read_exact(&mut [0])?)
    })?;
    steps.twice("receive", (PIECES, PIECE as u64), || {
        let mut stream = connect(Service::Source)?;
        let size = PIECES * PIECE as u64;
        stream.write_all(&size.to_le_bytes())?;
        let mut left = size;
        while left > 0 {
            match stream.read(&mut piece)? {
                0 => return Err(format!("the stream ended {left} bytes early").into()),
                count => left = left.saturating_sub(count as u64),
            }
        }
        Ok(())
    })?;
    let mut stream = connect(Service::Echo)?;
    steps.twice("round_trip", (TRIPS, 1), || {
        for _ in 0..TRIPS {
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
        }
        Ok(())
    })
}
