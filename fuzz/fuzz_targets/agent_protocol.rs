//! The protocol of a sandbox's agent: bytes of either side become messages or errors, and messages become the same bytes
//! again.
#![no_main]
use coracle_protocol::sandbox::{
    Answer, Notice, Preamble, Request,
    file::Change,
    wire::{self, Frame, Kind, MAX_BODY},
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

/// What was understood can be said again, and means the same.
fn again<M: Serialize + DeserializeOwned + PartialEq>(frame: &Frame) {
    let Ok(message) = frame.message::<M>() else { return };
    let Ok(bytes) = wire::encode(frame.number, frame.kind, &message) else {
        // What was said shortly may be too long in full.
        return;
    };
    let second = wire::read(&mut bytes.as_slice()).unwrap().unwrap();
    assert!(second.body.len() <= MAX_BODY);
    assert!(second.message::<M>().unwrap() == message);
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((preamble, mut rest)) = bytes.split_first_chunk::<{ Preamble::LEN }>() {
        if let Some(known) = Preamble::decode(preamble) {
            assert_eq!(&known.encode(), preamble);
        }
        while let Ok(Some(frame)) = wire::read(&mut rest) {
            match frame.kind {
                Kind::Request => again::<Request>(&frame),
                Kind::Answer | Kind::Part => again::<Answer>(&frame),
                Kind::Notice => {
                    again::<Notice>(&frame);
                    again::<Change>(&frame);
                }
            }
        }
    }
    // Without a frame around them, so that every input gets to the decoder.
    let frame = |kind| Frame {
        number: 1,
        kind,
        body: bytes.to_vec(),
    };
    again::<Request>(&frame(Kind::Request));
    again::<Answer>(&frame(Kind::Answer));
});
