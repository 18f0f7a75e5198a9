//! A pseudo-terminal that plays the operator's.
#![allow(dead_code, reason = "each test program uses a part of it")]
use super::run::LIMIT;
use rustix::{
    event::{PollFd, PollFlags, poll},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, OptionalActions, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    thread,
    time::{Duration, Instant},
};

/// Both ends of it: the person's, and the one that programs have as their standard streams.
pub struct Terminal {
    person: File,
    client: File,
    fresh: Termios,
}

impl Terminal {
    pub fn new() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
        let client = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(name)
            .unwrap();
        let fresh = tcgetattr(&client).unwrap();
        Self {
            person: person.into(),
            client,
            fresh,
        }
    }

    /// A client's end, for a standard stream.
    pub fn client(&self) -> OwnedFd {
        self.client.try_clone().unwrap().into()
    }

    /// All its settings, as text that can be compared.
    pub fn modes(&self) -> String {
        format!("{:?}", tcgetattr(&self.client).unwrap())
    }

    /// Gives it the settings that it began with.
    pub fn restore(&self) {
        tcsetattr(&self.client, OptionalActions::Now, &self.fresh).unwrap();
    }

    /// Gives it another size. A program of which it is not the controlling terminal hears nothing of that.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.client, size).unwrap();
    }

    pub fn wait_until_raw(&self) {
        let until = Instant::now() + LIMIT;
        while tcgetattr(&self.client)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON)
        {
            assert!(Instant::now() < until, "the terminal was never put into raw mode");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
    }

    /// What programs have written to it since the last call; waits for some.
    pub fn read(&mut self) -> Vec<u8> {
        let limit = LIMIT.try_into().unwrap();
        let ready = poll(&mut [PollFd::new(&self.person, PollFlags::IN)], Some(&limit)).unwrap();
        assert!(ready > 0, "nothing was written to the terminal for {LIMIT:?}");
        let mut bytes = vec![0; 4096];
        let n = self.person.read(&mut bytes).unwrap();
        bytes.truncate(n);
        bytes
    }
}
