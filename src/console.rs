//! The operator's end of the guest's serial port.
//!
//! A console outlives a reboot of the guest: the machine is built anew and its new port is attached here. It owns two
//! threads, `console-in` and `console-out`; it never holds a lock while it waits.
use crate::{
    config::spec::{SerialInput, SerialOutput as OutputSpec, SerialSpec},
    wake::Wake,
};
use coracle_devices::{irq::IrqLine, serial::Serial};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

pub(crate) mod input;
pub(crate) mod output;
pub mod terminal;

use input::{Input, OnEscape};
use output::{OnPanic, Output, Pump, WhenFull};

/// Why the console could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A file cannot be opened.
    #[error("cannot open {path:?} for the serial port's {side}; check the folder and its permissions")]
    Open {
        /// The file.
        path: PathBuf,
        /// "input" or "output".
        side: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The system refused a descriptor, a pseudo-terminal or a thread.
    #[error("cannot set up the console; check the limits on open files and threads")]
    System(#[from] io::Error),
}

/// The operator's end of the serial port.
pub(crate) struct Console {
    input: Option<Input>,
    output: Arc<Output>,
    _pump: Pump,
    /// The name of the pseudo-terminal, and its other end, kept open so that the first client's leaving is no hang-up.
    pty: Option<(PathBuf, OwnedFd)>,
}

impl Console {
    /// Opens both sides and starts their threads.
    pub(crate) fn open(spec: &SerialSpec, on_panic: OnPanic, on_escape: OnEscape) -> Result<Self, ConsoleError> {
        let mut source = match &spec.input {
            SerialInput::Stdin if in_background() => None,
            SerialInput::Stdin => Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            SerialInput::None => None,
            SerialInput::File(path) => Some(open(path, "input", OpenOptions::new().read(true))?),
        };
        let mut pty = None;
        let (target, when_full) = match &spec.output {
            OutputSpec::Stdout => (Some(io::stdout().as_fd().try_clone_to_owned()?), WhenFull::Wait),
            OutputSpec::None => (None, WhenFull::DropOldest),
            OutputSpec::File(path) => {
                let file = open(
                    path,
                    "output",
                    OpenOptions::new().write(true).create(true).truncate(true),
                )?;
                (Some(file.into()), WhenFull::Wait)
            }
            OutputSpec::Pty => {
                let (main, name, client) = open_pty()?;
                source = Some(File::from(main.try_clone()?));
                pty = Some((name, client));
                (Some(main), WhenFull::DropOldest)
            }
        };
        let output = Arc::new(Output::new(target, when_full, on_panic)?);
        let pump = Pump::spawn(&output)?;
        let interactive = spec.input == SerialInput::Stdin && pty.is_none();
        let input = source
            .map(|source| Input::spawn(source, interactive, on_escape))
            .transpose()?;
        Ok(Self {
            input,
            output,
            _pump: pump,
            pty,
        })
    }

    /// Makes the serial port of a new machine and connects it.
    pub(crate) fn plug(&self, irq: IrqLine) -> io::Result<Arc<Serial>> {
        let room = match &self.input {
            Some(input) => input.room()?,
            None => Wake::new()?.event()?,
        };
        let serial = Arc::new(Serial::new(irq, self.output.clone(), room));
        self.output.attach(&serial);
        if let Some(input) = &self.input {
            input.attach(&serial);
        }
        Ok(serial)
    }

    /// The name of the pseudo-terminal, if there is one.
    pub(crate) fn pty(&self) -> Option<&PathBuf> {
        self.pty.as_ref().map(|(name, _)| name)
    }
}

/// A background job that reads its terminal, or changes its modes, is stopped by the kernel: leave it alone then.
fn in_background() -> bool {
    rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group != rustix::process::getpgrp())
}

fn open(path: &PathBuf, side: &'static str, options: &OpenOptions) -> Result<File, ConsoleError> {
    options.open(path).map_err(|source| ConsoleError::Open {
        path: path.clone(),
        side,
        source,
    })
}

/// A new pseudo-terminal: our end, its name, and a client's end in raw mode.
fn open_pty() -> io::Result<(OwnedFd, PathBuf, OwnedFd)> {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&main)?;
    unlockpt(&main)?;
    let name = ptsname(&main, Vec::new())?;
    let name = PathBuf::from(name.to_string_lossy().into_owned());
    let client: OwnedFd = OpenOptions::new().read(true).write(true).open(&name)?.into();
    let mut modes = rustix::termios::tcgetattr(&client)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&client, rustix::termios::OptionalActions::Now, &modes)?;
    Ok((main, name, client))
}
