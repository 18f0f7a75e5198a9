//! Any packets, rings and programs on the host, in any order: the vsock device serves all of them, or asks for a reset, and
//! never spins.
#![no_main]
use coracle_devices::virtio::{
    MutEventSubscriber, Setup, VirtioDevice,
    queue::Queue,
    testing::{Driver, memory},
    vsock::{Host, Vsock, VsockWorker},
};
use event_manager::{EventManager, SubscriberId, SubscriberOps};
use libfuzzer_sys::fuzz_target;
use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use vm_memory::{Bytes, GuestAddress};

struct Rig {
    drivers: [Driver; 3],
    device: Vsock,
    events: EventManager<Arc<Mutex<dyn MutEventSubscriber>>>,
    worker: Option<(SubscriberId, Arc<Mutex<VsockWorker>>)>,
}

impl Rig {
    fn start(&mut self, queues: Option<Vec<Queue>>) {
        let queues = queues.unwrap_or_else(|| self.drivers.iter().map(|driver| driver.queue.clone()).collect());
        for (driver, queue) in self.drivers.iter_mut().zip(queues) {
            driver.queue = queue;
        }
        let setup = Setup {
            memory: self.drivers[0].memory.clone(),
            features: 1 << 32,
            signals: self.drivers[0].signals.clone(),
            rings: (0..)
                .zip(&self.drivers)
                .map(|(index, driver)| driver.ring(index))
                .collect(),
        };
        let worker = Arc::new(Mutex::new(self.device.start(setup).unwrap().pop().unwrap()));
        self.worker = Some((self.events.add_subscriber(worker.clone()), worker));
    }

    fn stop(&mut self) -> Vec<Queue> {
        let (id, worker) = self.worker.take().unwrap();
        self.events.remove_subscriber(id).unwrap();
        let worker = Arc::into_inner(worker).unwrap().into_inner().unwrap();
        self.device
            .stop(vec![worker])
            .into_iter()
            .map(|ring| ring.stop().1)
            .collect()
    }

    fn turn(&mut self) {
        for _ in 0..1000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the worker spins");
    }
}

/// A packet that is right in most of its fields.
fn packet([a, b, op, flags, len, room, forwarded]: [u8; 7]) -> Vec<u8> {
    let host = if b & 4 == 0 {
        u32::from(b & 3)
    } else {
        1 << 30 | u32::from(b & 3)
    };
    let cid = if a & 0xf0 == 0xf0 { 4_u64 } else { 3 };
    let kind = if op & 0xf0 == 0xf0 { 2 } else { 1_u32 };
    let mut bytes = cid.to_le_bytes().to_vec();
    bytes.extend(2_u64.to_le_bytes());
    let words = [
        u32::from(a & 3),
        host,
        u32::from(len) * 16,
        kind | u32::from(op % 9) << 16,
        u32::from(flags),
        u32::from(room) << 8,
        u32::from(forwarded) << 4,
    ];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // Sometimes less than it says.
    bytes.resize(44 + usize::from(len) * if forwarded == 0xff { 8 } else { 16 }, 7);
    bytes
}

const LINES: [&[u8]; 6] = [
    b"CONNECT 1\n",
    b"connect 2\nhello",
    b"CONNECT 3 WAIT 5\n",
    b"CON",
    b"NECT 1\n",
    b"GET /\n",
];

fuzz_target!(|input: &[u8]| {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = std::env::temp_dir().join(format!(
        "coracle-fuzz-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (sender, dialed) = mpsc::channel();
    let shift = Arc::new(AtomicU64::new(0));
    let (clock, start) = (shift.clone(), Instant::now());
    let host = Host {
        listener: listener.into(),
        dial: Box::new(move |port| {
            if port == 3 {
                return Err(std::io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            sender.send(theirs).unwrap();
            Ok(ours.into())
        }),
        clock: Box::new(move || start + Duration::from_millis(clock.load(Ordering::Relaxed))),
    };
    let memory = memory();
    let drivers = [0, 0x40000, 0x80000].map(|at| Driver::at(memory.clone(), 64, at));
    let mut rig = Rig {
        drivers,
        device: Vsock::new(3, host),
        events: EventManager::new().unwrap(),
        worker: None,
    };
    rig.start(None);
    let mut clients: Vec<UnixStream> = Vec::new();
    let mut room = 400;
    for step in input.chunks_exact(8).take(300) {
        let [kind, rest @ ..] = step else { break };
        let rest: [u8; 7] = rest.try_into().unwrap();
        let at = usize::from(rest[0]);
        match kind % 12 {
            0..=3 if room > 0 => {
                room -= 1;
                let bytes = packet(rest);
                let cut = usize::from(kind >> 4).min(bytes.len());
                rig.drivers[1].add(&[&bytes[..cut], &bytes[cut..]], &[]);
                let _ = rig.drivers[1].kick.write(1);
            }
            4 | 5 if room > 0 => {
                room -= 1;
                let first = if rest[1] == 0xff { at } else { 44 };
                rig.drivers[0].add(&[], &[first, 16 * usize::from(rest[2]) + 1]);
                let _ = rig.drivers[0].kick.write(1);
            }
            6 => {
                let Ok(mut client) = UnixStream::connect(&path) else {
                    continue;
                };
                client.set_nonblocking(true).unwrap();
                let _ = client.write(LINES[at % LINES.len()]);
                clients.push(client);
            }
            7 => {
                clients.extend(dialed.try_iter());
                let count = clients.len();
                if let Some(client) = clients.get_mut(at.checked_rem(count).unwrap_or(0)) {
                    match rest[1] % 4 {
                        0 => drop(client.write(&vec![1; 64 * usize::from(rest[2])])),
                        1 => drop(client.read(&mut vec![0; 64 * usize::from(rest[2])])),
                        2 => drop(client.shutdown(std::net::Shutdown::Write)),
                        _ => drop(clients.swap_remove(at % count)),
                    }
                }
            }
            8 => {
                let table = [0x1000, 0x4000, 0x6000][usize::from(rest[1] % 3)] + 0x40000 * u64::from(rest[2] % 3);
                memory
                    .write_slice(&rest[3..], GuestAddress(table + u64::from(rest[0]) * 4))
                    .unwrap();
            }
            9 => {
                let queues = rig.stop();
                if rest[1] & 1 == 0 {
                    rig.start(Some(queues));
                } else {
                    rig.device.reset();
                    rig.drivers = [0, 0x40000, 0x80000].map(|at| Driver::at(memory.clone(), 64, at));
                    rig.start(None);
                }
            }
            10 => {
                shift.fetch_add(u64::from(rest[0]) * 100, Ordering::Relaxed);
            }
            _ => rig.turn(),
        }
    }
    rig.turn();
    rig.stop();
    rig.device.reset();
    std::fs::remove_file(&path).unwrap();
});
