//! Named byte channels between host and guest: the ports of a virtio console of their own.
use super::{Backend, DeviceError};
use crate::{
    board::Board,
    config::spec::{PortTarget, PortsSpec},
    console::open_pty,
};
use channel::{Channel, End};
use coracle_devices::virtio::console::{Console, PortSpec};
use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::net::UnixListener},
    path::PathBuf,
};

mod channel;

/// The host's ends, which outlive machines.
pub(super) struct Ports(Vec<Channel>);

impl Ports {
    pub(super) fn open(spec: &PortsSpec) -> Result<Self, DeviceError> {
        let channels = spec.ports.iter().map(|port| {
            let end = open(&port.name, &port.to).map_err(|source| match &port.to {
                PortTarget::File(path) | PortTarget::Socket(path) => DeviceError::Port {
                    name: port.name.clone(),
                    path: path.clone(),
                    source,
                },
                PortTarget::Stdio | PortTarget::Pty => resource(&port.name, source),
            })?;
            Channel::spawn(&port.name, end).map_err(|source| resource(&port.name, source))
        });
        Ok(Self(channels.collect::<Result<_, _>>()?))
    }
}

impl Backend for Ports {
    fn plug(&self, board: &mut Board<'_>) -> Result<(), DeviceError> {
        let all = || self.0.iter();
        let specs = all().map(|channel| {
            Ok(PortSpec {
                name: channel.name().to_owned(),
                console: false,
                output: channel.output(),
                input_wanted: channel.input_wanted()?,
            })
        });
        let failed = |source| resource("named ports", source);
        let device = Console::new(specs.collect::<io::Result<_>>().map_err(failed)?).map_err(failed)?;
        for (channel, port) in all().zip(device.ports()) {
            channel.attach(port);
        }
        let thread = board.io_thread()?;
        Ok(board.virtio("ports", device, vec![thread])?)
    }
}

fn resource(name: &str, source: io::Error) -> DeviceError {
    DeviceError::Resource {
        name: format!("port {name:?}"),
        source,
    }
}

fn open(name: &str, to: &PortTarget) -> io::Result<End> {
    Ok(match to {
        PortTarget::Stdio => End::Streams {
            input: Some(io::stdin().as_fd().try_clone_to_owned()?.into()),
            output: io::stdout().as_fd().try_clone_to_owned()?.into(),
            kept: None,
        },
        PortTarget::Pty => {
            let (main, path, client) = open_pty()?;
            log::info!("port {name:?} is at {}", path.display());
            let main = File::from(main);
            End::Streams {
                input: Some(main.try_clone()?),
                output: main,
                kept: Some(client),
            }
        }
        PortTarget::File(path) => End::Streams {
            input: None,
            output: OpenOptions::new().write(true).create(true).truncate(true).open(path)?,
            kept: None,
        },
        PortTarget::Socket(path) => {
            let listener = UnixListener::bind(path)?;
            let path = Removed(path.clone());
            listener.set_nonblocking(true)?;
            End::Socket { listener, path }
        }
    })
}

/// A file that is removed when the value is dropped.
pub(super) struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}
