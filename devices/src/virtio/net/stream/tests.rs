#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::{super::super::testing::memory, *};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const AT: u64 = 0x1000;

/// Room of `len` bytes in pieces of 100.
fn room(memory: &GuestMemoryMmap, len: u32) -> Buffers {
    let mut room = Buffers::default();
    for at in (0..len).step_by(100) {
        room.add(memory, AT + u64::from(at), 100.min(len - at)).unwrap();
    }
    room
}

fn bytes(memory: &GuestMemoryMmap, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read_slice(&mut bytes, GuestAddress(AT)).unwrap();
    bytes
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

/// The bytes of a frame with its header in guest memory, or what came instead.
fn receive(incoming: &mut Incoming, socket: &UnixStream, memory: &GuestMemoryMmap) -> io::Result<Option<Vec<u8>>> {
    let got = incoming.receive(socket, &mut room(memory, 2000))?;
    Ok(got.map(|len| bytes(memory, len)))
}

#[test]
fn frames_come_out_as_they_went_in_wherever_the_stream_is_cut() {
    let memory = memory();
    let frames = [frame(14, 1), frame(1514, 2), frame(15, 3), frame(600, 4)];
    let stream: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    for step in [1, 2, 3, 5, 17, 100, 1518, 4000] {
        let (ours, mut theirs) = pair();
        let mut incoming = Incoming::default();
        let mut got = Vec::new();
        // The room stays while a frame is on its way.
        let mut space = room(&memory, 2000);
        for piece in stream.chunks(step) {
            theirs.write_all(piece).unwrap();
            loop {
                match incoming.receive(&ours, &mut space) {
                    Ok(len) => {
                        got.push(bytes(&memory, len.unwrap())[HEADER..].to_vec());
                        space = room(&memory, 2000);
                    }
                    Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        }
        assert_eq!(got, frames, "in pieces of {step}");
    }
}

#[test]
fn a_frame_without_room_is_skipped_and_the_next_one_arrives() {
    let memory = memory();
    let (ours, mut theirs) = pair();
    let mut incoming = Incoming::default();
    for bad in [frame(3000, 1), frame(13, 1), Vec::new()] {
        theirs.write_all(&framed(&bad)).unwrap();
        theirs.write_all(&framed(&frame(60, 2))).unwrap();
        assert_eq!(receive(&mut incoming, &ours, &memory).unwrap(), None);
        let got = receive(&mut incoming, &ours, &memory).unwrap().unwrap();
        assert_eq!((&got[..HEADER], &got[HEADER..]), (&[0; HEADER][..], &frame(60, 2)[..]));
    }
}

#[test]
fn a_frame_whose_room_is_gone_is_skipped() {
    let memory = memory();
    let (ours, mut theirs) = pair();
    let mut incoming = Incoming::default();
    let first = framed(&frame(500, 1));
    theirs.write_all(&first[..300]).unwrap();
    assert_eq!(
        receive(&mut incoming, &ours, &memory).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    incoming.abandon();
    theirs.write_all(&first[300..]).unwrap();
    theirs.write_all(&framed(&frame(20, 2))).unwrap();
    let got = receive(&mut incoming, &ours, &memory).unwrap().unwrap();
    assert_eq!(got[HEADER..], frame(20, 2));
}

#[test]
fn an_end_and_nonsense_are_errors() {
    let memory = memory();
    let (ours, mut theirs) = pair();
    theirs.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let error = receive(&mut Incoming::default(), &ours, &memory).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(theirs);
    let error = receive(&mut Incoming::default(), &ours, &memory).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// Everything that the socket has now.
fn drain(mut socket: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let error = socket.read_to_end(&mut all).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    all
}

/// A frame with its header in guest memory.
fn packet(memory: &GuestMemoryMmap, frame: &[u8]) -> Buffers {
    let bytes = [&[9; HEADER][..], frame].concat();
    memory.write_slice(&bytes, GuestAddress(AT)).unwrap();
    room(memory, bytes.len() as u32)
}

#[test]
fn a_frame_that_goes_in_pieces_stays_one() {
    let memory = memory();
    let (ours, theirs) = pair();
    let mut outgoing = Outgoing::default();
    let mut sent = Vec::new();
    let mut blocked = 0;
    for seed in 0..50 {
        let frame = frame(60_000, seed);
        let mut packet = packet(&memory, &frame);
        while let Err(error) = outgoing.send(&ours, &mut packet) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            blocked += 1;
            sent.extend(drain(&theirs));
        }
    }
    sent.extend(drain(&theirs));
    let expected: Vec<u8> = (0..50).flat_map(|seed| framed(&frame(60_000, seed))).collect();
    assert!(blocked > 5 && sent == expected, "{blocked}");
}

#[test]
fn the_rest_of_a_frame_goes_first_when_its_chain_is_gone() {
    let memory = memory();
    let (ours, theirs) = pair();
    let mut outgoing = Outgoing::default();
    let mut seed = 0;
    loop {
        let mut packet = packet(&memory, &frame(60_000, seed));
        if outgoing.send(&ours, &mut packet).is_err() {
            assert!(outgoing.finish(&mut packet));
            break;
        }
        seed += 1;
    }
    let mut sent = drain(&theirs);
    outgoing.send(&ours, &mut packet(&memory, &frame(30, 99))).unwrap();
    sent.extend(drain(&theirs));
    let mut expected: Vec<u8> = (0..=seed).flat_map(|seed| framed(&frame(60_000, seed))).collect();
    expected.extend(framed(&frame(30, 99)));
    assert!(sent == expected);
    // A frame that has not begun is the chain's alone.
    assert!(!outgoing.finish(&mut packet(&memory, &frame(30, 1))));
}
