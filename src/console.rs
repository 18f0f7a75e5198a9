//! The operator's end of the guest's console: its serial port, and its virtio console if it has one.
//!
//! A console outlives a reboot of the guest: the machine is built anew and its new ports are attached here. It owns two
//! threads, `console-in` and `console-out`; it never holds a lock while it waits.
use crate::{
    config::spec::{ConsoleSpec, SerialInput, SerialOutput as OutputSpec, SerialSpec},
    wake::Wake,
};
use coracle_devices::{
    irq::IrqLine,
    serial::Serial,
    virtio::console::{self, Port, PortSpec},
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use vmm_sys_util::eventfd::EventFd;

pub(crate) mod input;
pub(crate) mod lines;
pub(crate) mod output;
pub mod terminal;

use input::{Input, OnEscape};
use lines::Lines;
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

/// The size of the operator's terminal, for the guest's virtio console.
#[derive(Default)]
pub(crate) struct Size {
    /// Columns and rows.
    now: Mutex<Option<(u16, u16)>>,
    lines: Arc<Lines>,
}

impl Size {
    /// Tells the guest, now and after each reboot.
    pub(crate) fn set(&self, columns: u16, rows: u16) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some((columns, rows));
        if let Some(port) = self.lines.virtio() {
            port.resize(columns, rows);
        }
    }

    fn apply(&self, port: &Port) {
        if let Some((columns, rows)) = *self.now.lock().unwrap_or_else(PoisonError::into_inner) {
            port.resize(columns, rows);
        }
    }
}

/// The operator's end of the guest's console.
pub(crate) struct Console {
    has_virtio: bool,
    lines: Arc<Lines>,
    size: Arc<Size>,
    input: Option<Input>,
    output: Arc<Output>,
    _pump: Pump,
    /// The name of the pseudo-terminal, and its other end, kept open so that the first client's leaving is no hang-up.
    pty: Option<(PathBuf, OwnedFd)>,
}

impl Console {
    /// Opens both sides and starts their threads.
    pub(crate) fn open(
        spec: &SerialSpec,
        console: ConsoleSpec,
        on_panic: OnPanic,
        on_escape: OnEscape,
    ) -> Result<Self, ConsoleError> {
        let lines = Arc::new(Lines::new(console.virtio));
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
        let output = Arc::new(Output::new(target, when_full, &lines, on_panic)?);
        let pump = Pump::spawn(&output)?;
        let interactive = spec.input == SerialInput::Stdin && pty.is_none();
        let input = source
            .map(|source| Input::spawn(source, interactive, &lines, on_escape))
            .transpose()?;
        let size = Arc::new(Size {
            now: Mutex::default(),
            lines: lines.clone(),
        });
        Ok(Self {
            has_virtio: console.virtio,
            lines,
            size,
            input,
            output,
            _pump: pump,
            pty,
        })
    }

    /// Makes the serial port of a new machine and connects it.
    pub(crate) fn plug(&self, irq: IrqLine) -> io::Result<Arc<Serial>> {
        let serial = Arc::new(Serial::new(irq, self.output.clone(), self.input_wanted()?));
        self.lines.attach_serial(&serial);
        if let Some(input) = &self.input {
            input.attached();
        }
        Ok(serial)
    }

    /// Makes the virtio console of a new machine, if it shall have one, and connects it.
    pub(crate) fn plug_virtio(&self) -> io::Result<Option<console::Console>> {
        if !self.has_virtio {
            return Ok(None);
        }
        let device = console::Console::new(vec![PortSpec {
            name: String::new(),
            console: true,
            output: self.output.clone(),
            input_wanted: self.input_wanted()?,
        }])?;
        if let Some(port) = device.ports().first() {
            self.lines.attach_virtio(port);
            self.size.apply(port);
        }
        Ok(Some(device))
    }

    /// What a port writes when it can take input.
    fn input_wanted(&self) -> io::Result<EventFd> {
        match &self.input {
            Some(input) => input.room(),
            None => Wake::new()?.event(),
        }
    }

    /// The size of the operator's terminal.
    pub(crate) fn size(&self) -> &Arc<Size> {
        &self.size
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
pub(crate) fn open_pty() -> io::Result<(OwnedFd, PathBuf, OwnedFd)> {
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
