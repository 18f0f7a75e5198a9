use super::*;
use coracle_protocol::sandbox::{
    Answer, Done, Notice, Preamble, Request,
    file::{Entries, Entry},
    process::Started,
    wire::{self, Kind},
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Instant,
};

const SOON: Duration = Duration::from_secs(20);

/// A folder for sockets that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("coracle-agent-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn listen(&self, key: Key) -> Listening {
        Listening::new(self.0.join("v"), key).unwrap()
    }

    /// What the guest dials.
    fn dial(&self, preamble: Preamble) -> UnixStream {
        let mut stream = UnixStream::connect(self.0.join("v_2620")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(&preamble.encode()).unwrap();
        stream
    }

    /// A guest that says hello and answers each request with what `answer` makes of it.
    fn guest(
        &self,
        key: Key,
        generation: u32,
        answer: impl Fn(&Self, Request) -> Vec<(Kind, Answer)> + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let folder = Self(self.0.clone());
        let mut control = folder.dial(Preamble::Control(key.0));
        let hello = Hello {
            generation,
            ..Hello::default()
        };
        wire::write(&mut control, 0, Kind::Notice, &Notice::Hello(hello)).unwrap();
        thread::spawn(move || {
            while let Ok(Some(frame)) = wire::read(&mut control) {
                for (kind, answer) in answer(&folder, frame.message().unwrap()) {
                    if wire::write(&mut control, frame.number, kind, &answer).is_err() {
                        break;
                    }
                }
            }
            std::mem::forget(folder);
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn done() -> Vec<(Kind, Answer)> {
    vec![(Kind::Answer, Answer::Done(Done {}))]
}

#[test]
fn an_agent_is_accepted_and_answers() {
    let folder = Folder::new("accepted");
    let key = Key::random();
    let listening = folder.listen(key);
    let guest = folder.guest(key, GENERATION, |_, _| done());
    let agent = listening.accept(SOON).unwrap();
    agent.sync().unwrap();
    assert!(matches!(agent.ports(), Err(AgentError::Unexpected)));
    drop(agent);
    guest.join().unwrap();
    drop(listening);
    // The thread that read the agent's answers is the last to let go.
    let until = Instant::now() + SOON;
    while folder.0.join("v_2620").exists() {
        assert!(Instant::now() < until, "the socket stays");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn only_an_agent_with_the_key_and_of_this_generation_is_accepted() {
    let folder = Folder::new("refused");
    let key = Key::random();
    let listening = folder.listen(key);
    let mut stranger = folder.dial(Preamble::Control(Key::random().0));
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    let mut garbage = UnixStream::connect(folder.0.join("v_2620")).unwrap();
    garbage.write_all(&[b'x'; Preamble::LEN]).unwrap();
    garbage.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(garbage.read(&mut [0]).unwrap(), 0);
    let short = Duration::from_millis(50);
    assert!(matches!(listening.accept(short), Err(AgentError::NotThere(_))));
    let _guest = folder.guest(key, GENERATION + 1, |_, _| done());
    assert!(matches!(listening.accept(SOON), Err(AgentError::Generation(_))));
}

#[test]
fn silent_connections_hold_up_nobody() {
    let folder = Folder::new("silent");
    let key = Key::random();
    let listening = folder.listen(key);
    let silent: Vec<_> = (0..50)
        .map(|_| UnixStream::connect(folder.0.join("v_2620")).unwrap())
        .collect();
    let _guest = folder.guest(key, GENERATION, |_, _| done());
    listening.accept(SOON).unwrap().sync().unwrap();
    drop(silent);
}

#[test]
fn streams_find_their_process_in_any_order() {
    let folder = Folder::new("streams");
    let key = Key::random();
    let listening = folder.listen(key);
    let _guest = folder.guest(key, GENERATION, |folder, request| {
        let Request::Exec(exec) = request else { return done() };
        // Standard error first, with the answer before all, and a stream that nobody asked for.
        let answer = vec![(Kind::Answer, Answer::Started(Started { process: 7, pid: 8 }))];
        let streams = exec.streams;
        let folder = Folder(folder.0.clone());
        thread::spawn(move || {
            drop(folder.dial(Preamble::Stream(Key::random().0)));
            for (token, text) in [(streams.stderr, "err"), (streams.stdout, "out")] {
                let mut stream = folder.dial(Preamble::Stream(token.unwrap()));
                stream.write_all(text.as_bytes()).unwrap();
            }
            std::mem::forget(folder);
        });
        answer
    });
    let agent = listening.accept(SOON).unwrap();
    let mut process = agent.exec(&ExecSpec::new(["x"])).unwrap();
    assert_eq!((process.id(), process.pid()), (7, Some(8)));
    let (mut out, mut err) = (String::new(), String::new());
    process.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("out", "err"));
}

#[test]
fn a_guest_that_says_too_much_or_nonsense_is_left() {
    let folder = Folder::new("much");
    let key = Key::random();
    let listening = folder.listen(key);
    let endless = |_: &Folder, _| {
        let entries = Entries {
            entries: vec![Entry::default(); 4000],
        };
        vec![(Kind::Part, Answer::Entries(entries)); 300]
    };
    let _guest = folder.guest(key, GENERATION, endless);
    let agent = listening.accept(SOON).unwrap();
    assert!(matches!(agent.files().list("/"), Err(AgentError::Unexpected)));
    drop(agent);
    let mut control = folder.dial(Preamble::Control(key.0));
    let hello = Hello {
        generation: GENERATION,
        ..Hello::default()
    };
    wire::write(&mut control, 0, Kind::Notice, &Notice::Hello(hello)).unwrap();
    let agent = listening.accept(SOON).unwrap();
    control.write_all(&[0xff; 64]).unwrap();
    assert!(matches!(agent.sync(), Err(AgentError::Gone)));
}
