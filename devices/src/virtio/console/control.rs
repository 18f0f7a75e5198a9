//! Control messages (Virtio 1.2 §5.3.6.2): which ports there are, what they are called, who is at their ends.
//!
//! Runs with the worker. What has to be said is a flag per port, so that a driver that asks again and again makes
//! nothing grow.
use super::{
    super::{
        chain::Chain,
        queue::{Ring, RingError},
    },
    HOST, Port,
};
use std::sync::Arc;

/// Events of control messages.
pub(super) mod event {
    /// Driver: it can take messages.
    pub(in super::super) const DEVICE_READY: u16 = 0;
    /// Device: there is a port.
    pub(in super::super) const DEVICE_ADD: u16 = 1;
    /// Driver: it is ready for a port.
    pub(in super::super) const PORT_READY: u16 = 3;
    /// Device: the port is a console.
    pub(in super::super) const CONSOLE_PORT: u16 = 4;
    /// Device: the console has another size.
    pub(in super::super) const RESIZE: u16 = 5;
    /// Both: the sender's end was opened or closed.
    pub(in super::super) const PORT_OPEN: u16 = 6;
    /// Device: the name of the port.
    pub(in super::super) const PORT_NAME: u16 = 7;
}

/// Bytes of a message without what may follow.
const HEADER: usize = 8;

/// The control queues.
#[derive(Debug)]
pub(super) struct Control {
    /// To the driver.
    input: Ring,
    /// From the driver.
    output: Ring,
    ports: Vec<Arc<Port>>,
}

impl Control {
    pub(super) fn new(input: Ring, output: Ring, ports: Vec<Arc<Port>>) -> Self {
        Self { input, output, ports }
    }

    pub(super) fn rings(&self) -> [&Ring; 2] {
        [&self.input, &self.output]
    }

    pub(super) fn go_home(self) -> [Ring; 2] {
        [self.input, self.output]
    }

    /// Serves what the event may have changed. `true` if the guest has opened a port; an error if a queue is broken, which
    /// has been told.
    pub(super) fn serve(&mut self, data: u32) -> Result<bool, ()> {
        let mut opened = false;
        if data == u32::from(self.output.index()) {
            let ports = &self.ports;
            let drained = self.output.drain(|chain| {
                opened |= take(chain, ports);
                Ok(0)
            });
            drained.map_err(|error| self.output.fail(&error))?;
        } else if data != HOST && data != u32::from(self.input.index()) {
            return Ok(false);
        }
        self.send().map_err(|error| self.input.fail(&error))?;
        Ok(opened)
    }

    /// Sends what is due, as far as the driver has buffers.
    fn send(&mut self) -> Result<(), RingError> {
        for (index, port) in (0..).zip(&self.ports) {
            while let Some((message, sent)) = next_message(index, port) {
                let chain = match self.input.pop()? {
                    None if self.input.enable_kicks()? => self.input.pop()?,
                    chain => chain,
                };
                let Some(mut chain) = chain else {
                    return self.input.signal();
                };
                if !chain.writable.write(&message) {
                    return Err(RingError::Protocol("a buffer for control messages is too small"));
                }
                self.input.push(chain, message.len() as u32)?;
                port.settle(sent);
            }
        }
        self.input.disable_kicks()?;
        self.input.signal()
    }
}

/// A message of the driver; `true` if it has opened a port. What makes no sense is passed over, as the specification has
/// no answer for it.
fn take(chain: &mut Chain, ports: &[Arc<Port>]) -> bool {
    let (mut id, mut event, mut value) = ([0; 4], [0; 2], [0; 2]);
    let whole = [&mut id[..], &mut event, &mut value]
        .into_iter()
        .all(|field| chain.readable.read(field));
    let (event, value) = (u16::from_le_bytes(event), u16::from_le_bytes(value));
    let port = usize::try_from(u32::from_le_bytes(id))
        .ok()
        .and_then(|id| ports.get(id));
    match (event, port) {
        _ if !whole => {}
        (event::DEVICE_READY, _) if value == 1 => ports.iter().for_each(|port| port.announce()),
        (event::PORT_READY, Some(port)) if value == 1 => port.set_ready(),
        (event::PORT_OPEN, Some(port)) => return port.set_open(value != 0),
        _ => log::debug!("console: a control message without meaning: event {event}, value {value}"),
    }
    false
}

type Settle = fn(&mut super::port::Due);

/// The next message about a port, and what has been said once it is sent.
fn next_message(id: u32, port: &Port) -> Option<(Vec<u8>, Settle)> {
    let (due, connected, (columns, rows)) = port.due();
    let (event, value, rest, sent): (_, _, Vec<u8>, Settle) = if due.add {
        (event::DEVICE_ADD, 0, Vec::new(), |due| due.add = false)
    } else if due.console {
        (event::CONSOLE_PORT, 1, Vec::new(), |due| due.console = false)
    } else if due.name {
        // The name ends with the buffer, without a NUL.
        (event::PORT_NAME, 1, port.name().into(), |due| due.name = false)
    } else if due.open {
        (event::PORT_OPEN, connected.into(), Vec::new(), |due| due.open = false)
    } else if due.resize {
        // As in §5.3.6.2.1. Linux read rows first for many years.
        let size = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
        (event::RESIZE, 0, size, |due| due.resize = false)
    } else {
        return None;
    };
    let mut message = Vec::with_capacity(HEADER + rest.len());
    message.extend(id.to_le_bytes());
    message.extend(event.to_le_bytes());
    message.extend(u16::to_le_bytes(value));
    message.extend(rest);
    Some((message, sent))
}
