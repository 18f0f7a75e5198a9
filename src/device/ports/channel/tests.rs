#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use coracle_devices::virtio::console::{Console, PortSpec};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

fn socket(name: &str) -> (Channel, PathBuf) {
    let path = std::env::temp_dir().join(format!("coracle-{name}-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let end = End::Socket {
        listener,
        path: Removed(path.clone()),
    };
    (Channel::spawn(name, end).unwrap(), path)
}

fn wait(come: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !come() {
        assert!(Instant::now() < until, "this never came");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn output_waits_for_a_client_within_a_bound_and_for_the_next_one() {
    let (channel, path) = socket("port-output");
    let output = channel.output();
    let bytes = vec![b'x'; CAPACITY + 10];
    assert_eq!(output.put(&bytes), CAPACITY);
    assert_eq!((output.put(b"y"), output.has_room()), (0, false));
    let mut client = UnixStream::connect(&path).unwrap();
    let mut all = vec![0; CAPACITY];
    client.read_exact(&mut all).unwrap();
    assert_eq!(all, bytes[..CAPACITY]);
    wait(|| output.has_room());
    drop(client);
    wait(|| !channel.shared.connected.load(Ordering::Acquire));
    assert_eq!(output.put(b"later"), 5);
    let mut client = UnixStream::connect(&path).unwrap();
    let mut later = [0; 5];
    client.read_exact(&mut later).unwrap();
    assert_eq!(&later, b"later");
    drop(channel);
    assert!(!path.exists());
}

#[test]
fn input_beyond_what_the_port_takes_waits_with_the_client() {
    let (channel, path) = socket("port-input");
    let spec = PortSpec {
        name: "a".to_owned(),
        console: false,
        output: channel.output(),
        input_wanted: channel.input_wanted().unwrap(),
    };
    let device = Console::new(vec![spec]).unwrap();
    let port = device.ports().first().unwrap();
    channel.attach(port);
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Without a driver the port takes a little; what the system keeps for a socket comes on top.
    let mut idle = Instant::now();
    while idle.elapsed() < Duration::from_millis(300) {
        if let Ok(n) = client.write(&[7; 4096]) {
            sent += n;
            idle = Instant::now();
            assert!(sent < 8 << 20, "nothing waits");
        }
    }
    assert_eq!(port.receive(b"more"), 0, "the port is full");
}
