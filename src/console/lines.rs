//! The guest's ports that lead to the operator: the serial port, and the virtio console if there is one.
//!
//! Both write to the same output. Input goes to the one that the guest listens to: what is typed before it listens to any
//! waits with the host. Used by the threads of the console; holds a lock for lookups only.
use coracle_devices::{serial::Serial, virtio::console::Port};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// See the module.
#[derive(Default)]
pub(crate) struct Lines {
    serial: Mutex<Weak<Serial>>,
    virtio: Mutex<Weak<Port>>,
    /// The machine has a virtio console, so that a serial port to which the guest does not listen gets nothing.
    expects_virtio: bool,
}

impl Lines {
    /// Lines of a machine that has a virtio console or not. None is there yet.
    pub(crate) fn new(expects_virtio: bool) -> Self {
        Self {
            expects_virtio,
            ..Self::default()
        }
    }

    /// From here on the serial port is this one.
    pub(crate) fn attach_serial(&self, serial: &Arc<Serial>) {
        *self.serial.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(serial);
    }

    /// From here on the virtio console is this one.
    pub(crate) fn attach_virtio(&self, port: &Arc<Port>) {
        *self.virtio.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(port);
    }

    fn serial(&self) -> Option<Arc<Serial>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    pub(super) fn virtio(&self) -> Option<Arc<Port>> {
        self.virtio.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Offers input to the line that is live; says how many bytes it took. When that is not all, the line writes its event
    /// when another try is worth it.
    pub(super) fn receive(&self, bytes: &[u8]) -> usize {
        let serial = self.serial();
        if !self.expects_virtio {
            return serial.map_or(0, |serial| serial.receive(bytes));
        }
        // A driver may be there although the guest uses the serial port; one that has written is in use.
        let listens = serial.as_ref().is_some_and(|serial| serial.listens());
        match self.virtio().filter(|port| port.is_running()) {
            Some(port) if !listens || port.has_spoken() => port.receive(bytes),
            _ if listens => serial.map_or(0, |serial| serial.receive(bytes)),
            _ => 0,
        }
    }

    /// Tells the lines that the output has room again.
    pub(super) fn output_drained(&self) {
        if let Some(serial) = self.serial() {
            serial.output_drained();
        }
        if let Some(port) = self.virtio() {
            port.output_drained();
        }
    }
}
