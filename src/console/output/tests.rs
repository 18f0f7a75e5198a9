use super::*;
use std::{
    io::Read,
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

/// An output into a pipe, the pipe's other end, and the panics that were seen.
fn output(when_full: WhenFull) -> (Arc<Output>, File, Receiver<String>) {
    let (reader, writer) = io::pipe().unwrap();
    let (sender, panics) = channel();
    let on_panic = Box::new(move |message| sender.send(message).unwrap());
    let output = Output::new(Some(writer.into()), when_full, &Arc::default(), on_panic).unwrap();
    (Arc::new(output), File::from(OwnedFd::from(reader)), panics)
}

/// Bytes that tell their place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect()
}

/// Puts all of `bytes`, as a guest does that waits for room.
fn put_all(output: &Output, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        while !output.has_room() {
            thread::yield_now();
        }
        let taken = output.put(&bytes[..bytes.len().min(16)]);
        bytes = &bytes[taken..];
    }
}

#[test]
fn ten_mebibytes_pass_a_reader_with_pauses_intact() {
    let (output, mut reader, _) = output(WhenFull::Wait);
    let pump = Pump::spawn(&output).unwrap();
    let bytes = pattern(10 << 20);
    let read = thread::spawn(move || {
        let (mut all, mut chunk, mut pauses) = (Vec::new(), vec![0; 48 << 10], 0);
        loop {
            let n = reader.read(&mut chunk).unwrap();
            all.extend_from_slice(&chunk[..n]);
            if n == 0 {
                return all;
            }
            if all.len() > pauses << 20 {
                pauses += 1;
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    put_all(&output, &bytes);
    drop(pump);
    drop(output);
    assert!(read.join().unwrap() == bytes, "not as written");
}

#[test]
fn what_does_not_fit_is_not_taken_and_nothing_grows() {
    let (output, mut reader, _) = output(WhenFull::Wait);
    let bytes = pattern(1 << 20);
    let mut taken = 0;
    loop {
        let n = output.put(&bytes[taken..taken + 1000]);
        taken += n;
        if n < 1000 {
            break;
        }
    }
    assert!(!output.has_room());
    assert_eq!(output.put(b"x"), 0);
    assert_eq!(output.lock().bytes.len(), CAPACITY);
    assert!(output.lock().bytes.capacity() <= 2 * CAPACITY);

    let pump = Pump::spawn(&output).unwrap();
    output.wake.signal();
    let mut seen = vec![0; taken];
    reader.read_exact(&mut seen).unwrap();
    assert!(seen == bytes[..taken], "not as written");
    drop(pump);
    assert!(output.has_room());
}

#[test]
fn a_target_without_reader_keeps_the_newest() {
    let (output, mut reader, _) = output(WhenFull::DropOldest);
    let bytes = pattern(1 << 20);
    for piece in bytes.chunks(100) {
        assert!(output.has_room());
        assert_eq!(output.put(piece), piece.len());
    }
    assert_eq!(output.lock().bytes.len(), CAPACITY);
    let pump = Pump::spawn(&output).unwrap();
    output.wake.signal();
    let read = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    drop(pump);
    drop(output);
    assert!(read.join().unwrap().ends_with(&bytes[bytes.len() - CAPACITY..]));
}

#[test]
fn a_target_that_is_gone_holds_up_nobody() {
    let (output, reader, _) = output(WhenFull::Wait);
    drop(reader);
    for _ in 0..1000 {
        assert_eq!(output.put(&[b'\n'; 1000]), 1000);
    }
    assert!(output.has_room() && output.lock().bytes.is_empty());
    drop(Pump::spawn(&output).unwrap());
}

#[test]
fn no_target_takes_everything() {
    let output = Output::new(None, WhenFull::DropOldest, &Arc::default(), Box::new(|_| {})).unwrap();
    assert_eq!(output.put(&vec![b'x'; 100_000]), 100_000);
    assert!(output.has_room());
}

#[test]
fn a_prompt_appears_though_its_line_does_not_end() {
    let (output, mut reader, _) = output(WhenFull::Wait);
    let _pump = Pump::spawn(&output).unwrap();
    for byte in b"login: " {
        output.put(&[*byte]);
    }
    let mut seen = [0; 7];
    reader.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"login: ");
}

#[test]
fn the_end_waits_for_a_slow_target_but_not_for_ever() {
    let (output, reader, _) = output(WhenFull::Wait);
    let pump = Pump::spawn(&output).unwrap();
    while output.put(&[b'\n'; 4096]) > 0 {}
    let start = Instant::now();
    drop(pump);
    let took = start.elapsed();
    let least = Duration::from_millis(DRAIN_MS.unsigned_abs().into());
    assert!(took >= least && took < least * 20, "took {took:?}");
    drop(reader);
}

#[test]
fn a_panic_is_found_whatever_pieces_it_comes_in() {
    let line = b"[    1.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n";
    for size in [1, 7, 16, line.len()] {
        let (output, _reader, panics) = output(WhenFull::Wait);
        line.chunks(size)
            .for_each(|piece| assert_eq!(output.put(piece), piece.len()));
        assert_eq!(
            panics.try_iter().collect::<Vec<_>>(),
            ["Attempted to kill init! exitcode=0x00000100"]
        );
    }
}

#[test]
fn other_lines_are_no_panic() {
    let (output, _reader, panics) = output(WhenFull::Wait);
    let far = [vec![b'x'; LINE], PANIC.as_bytes().to_vec(), b"too far out\n".to_vec()].concat();
    let split = PANIC.replacen(' ', "\n", 1);
    for bytes in [
        b"Kernel panic\n".as_slice(),
        &far,
        split.as_bytes(),
        b"\n\xff\xfe\n",
        PANIC.as_bytes(),
    ] {
        output.put(bytes);
    }
    assert_eq!(panics.try_iter().count(), 0, "the last line has not ended yet");
    output.put(b"now\n");
    assert_eq!(panics.try_iter().collect::<Vec<_>>(), ["now"]);
}
