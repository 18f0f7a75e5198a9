use super::*;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc::channel,
};

fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs.into())
}

#[test]
fn bytes_and_end_pass_though_the_reader_is_slow() {
    let relay = Relay::new().unwrap();
    let (mut writer, from) = pair();
    let (mut reader, to) = pair();
    let (send, ended) = channel();
    relay.add(Pair {
        from,
        to,
        first: b"first".to_vec(),
        at_end: AtEnd::Shutdown,
        one_way: true,
        on_end: Some(Box::new(move |end| send.send((end.broken, end.rest)).unwrap())),
    });
    let bytes: Vec<u8> = (0..4_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let expected = [b"first".as_slice(), &bytes].concat();
    let writing = thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
        writer
    });
    thread::sleep(std::time::Duration::from_millis(50));
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    assert_eq!(ended.recv().unwrap(), (false, vec![]));
    drop(writing.join().unwrap());
}

#[test]
fn a_reader_that_goes_away_leaves_the_source_and_what_it_did_not_take() {
    let relay = Relay::new().unwrap();
    let (mut writer, from) = pair();
    let (reader, to) = pair();
    let (send, ended) = channel();
    relay.add(Pair {
        from,
        to,
        first: vec![],
        at_end: AtEnd::Keep,
        one_way: true,
        on_end: Some(Box::new(move |end| send.send(end).unwrap())),
    });
    drop(reader);
    let end = ended.recv().unwrap();
    assert!(end.broken);
    writer.write_all(b"later").unwrap();
    let mut later = [0; 8];
    assert_eq!(read(&end.from, &mut later).unwrap(), 5);
}

#[test]
fn many_pairs_do_not_wait_for_one_another() {
    let relay = Relay::new().unwrap();
    let mut ends: Vec<_> = (0..100)
        .map(|_| {
            let (writer, from) = pair();
            let (reader, to) = pair();
            relay.add(Pair {
                from,
                to,
                first: vec![],
                at_end: AtEnd::Shutdown,
                one_way: true,
                on_end: None,
            });
            (writer, reader)
        })
        .collect();
    // The first one's reader takes nothing.
    let (stuck, _held) = &mut ends[0];
    stuck.set_nonblocking(true).unwrap();
    while stuck.write(&[0; 4096]).is_ok() {}
    for (n, (writer, reader)) in ends.iter_mut().enumerate().skip(1) {
        writer.write_all(&[n as u8]).unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [n as u8]);
    }
}
