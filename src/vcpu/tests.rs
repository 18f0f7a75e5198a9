use super::*;
use coracle_devices::bus::BusDevice;
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Counts up on reads, notes writes, asks for a reset when it is told 0xfe.
#[derive(Default)]
struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

impl BusDevice for Probe {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut seen = self.0.lock().unwrap();
        data.fill(seen.len() as u8);
        seen.push((offset, vec![data.len() as u8]));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.0.lock().unwrap().push((offset, data.to_vec()));
        if data.contains(&0xfe) {
            Effect::Reset
        } else {
            Effect::None
        }
    }
}

fn ports() -> (Bus, Arc<Probe>) {
    let (mut bus, probe) = (Bus::default(), Arc::new(Probe::default()));
    bus.add("probe", 0x100..0x108, probe.clone()).unwrap();
    (bus, probe)
}

#[test]
fn a_string_transfer_is_so_many_bytes_for_one_port() {
    let (bus, probe) = ports();
    assert_eq!(port_write(&bus, 0x102, b"string"), Effect::None);
    let mut data = [0xaa; 6];
    assert_eq!(port_read(&bus, 0x102, &mut data), Effect::None);
    assert_eq!(data, [6, 7, 8, 9, 10, 11], "read one after the other");
    let seen = probe.0.lock().unwrap();
    let written: Vec<u8> = seen[..6].iter().flat_map(|(_, data)| data.clone()).collect();
    assert_eq!(written, b"string");
    assert!(seen.iter().all(|(offset, _)| *offset == 2));
}

#[test]
fn an_effect_ends_a_string_transfer() {
    let (bus, probe) = ports();
    assert_eq!(port_write(&bus, 0x100, &[1, 2, 3, 0xfe, 5, 6]), Effect::Reset);
    assert_eq!(probe.0.lock().unwrap().len(), 4, "nothing follows a reset");
}

#[test]
fn a_port_that_nobody_has_reads_as_ones() {
    let (bus, probe) = ports();
    let mut data = [0; 4];
    assert_eq!(port_read(&bus, 0x200, &mut data), Effect::None);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(port_write(&bus, 0x200, &[0xfe]), Effect::None);
    assert!(probe.0.lock().unwrap().is_empty());
}

#[test]
fn a_pause_is_answered_and_holds() {
    assert!(matches!(obey(Command::Resume), State::Running));
    let (done, paused) = channel();
    assert!(matches!(obey(Command::Pause(done)), State::Paused));
    paused.try_recv().unwrap();
    let (done, paused) = channel();
    drop(paused); // whoever asked has given up
    assert!(matches!(obey(Command::Pause(done)), State::Paused));
    assert!(matches!(
        obey(Command::Stop),
        State::Done(Exit::Asked(Effect::Shutdown))
    ));
}

#[test]
fn a_vcpu_that_is_gone_counts_as_paused() {
    let (answers, pauses): (Vec<_>, Vec<_>) = (0..3).map(|_| channel()).unzip();
    let late = thread::spawn(move || {
        let mut answers = answers.into_iter();
        answers.next().unwrap().send(()).unwrap();
        drop(answers.next());
        thread::sleep(Duration::from_millis(30));
        answers.next().unwrap().send(()).unwrap();
    });
    let start = Instant::now();
    wait_all(pauses);
    assert!(start.elapsed() >= Duration::from_millis(30), "it waits for the last");
    late.join().unwrap();
}
