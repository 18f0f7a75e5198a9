//! The agent port: a serial port beside the console, on which PID 1 reports to the VMM.
use crate::console;
use coracle_protocol::{frame, report::Report};
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

/// The second serial port of the machine.
const PORT: &str = "/dev/ttyS1";

/// The port, if the machine has one.
#[derive(Debug)]
pub(crate) struct AgentPort {
    port: Option<File>,
}

impl AgentPort {
    /// Opens the port and has bytes pass through it unchanged.
    pub(crate) fn open() -> Self {
        // The kernel has device nodes for ports that are not there; those have no terminal settings.
        let options = &mut OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
        let port = options.open(PORT).ok().filter(|port| {
            let settings = tcgetattr(port).map(|mut settings| {
                settings.make_raw();
                // Nobody signals a carrier here; its absence must not count as a hang-up.
                settings.control_modes.insert(ControlModes::CLOCAL);
                settings
            });
            let set = settings.and_then(|settings| tcsetattr(port, OptionalActions::Now, &settings));
            set.is_ok() && rustix::io::ioctl_fionbio(port, false).is_ok()
        });
        Self { port }
    }

    /// Sends a report and waits until it has left. Without a port nobody listens.
    pub(crate) fn send(&mut self, report: &Report) {
        if let Some(port) = &mut self.port {
            match frame::write(port, report) {
                Ok(()) => console::drain(port),
                Err(error) => console::say(&format!("cannot report to the VMM: {error}")),
            }
        }
    }
}
