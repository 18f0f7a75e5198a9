//! The host's end of a port. Shared between the worker and the threads that move bytes on the host's side; its lock is
//! held for copies only, and never while the output's is taken.
use super::super::config_space::ConfigSpace;
use crate::{lock::lock, serial::SerialOutput};
use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard},
};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of input that wait in the device for the guest; see [`Port::receive`].
pub const INPUT_SIZE: usize = 4096;

/// What a port is and where it leads.
pub struct PortSpec {
    /// The name by which programs in the guest find it, at most [`super::MAX_NAME`] bytes; longer ones are cut.
    pub name: String,
    /// Whether the guest shall use it as a console.
    pub console: bool,
    /// Where the guest's output goes.
    pub output: Arc<dyn SerialOutput>,
    /// Written when [`Port::receive`] is worth another try: it had refused bytes, or the guest has begun to listen.
    pub input_wanted: EventFd,
}

/// See the module.
pub struct Port {
    name: String,
    output: Arc<dyn SerialOutput>,
    input_wanted: EventFd,
    /// Wakes the worker.
    wake: Arc<EventFd>,
    /// Of the console: where its size is.
    config: Option<Arc<ConfigSpace>>,
    state: Mutex<State>,
}

/// Messages about a port that the driver has not been sent yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) add: bool,
    pub(super) console: bool,
    pub(super) name: bool,
    pub(super) open: bool,
    pub(super) resize: bool,
}

#[derive(Debug, Default)]
struct State {
    /// A driver is there.
    running: bool,
    /// The driver knows the port; it takes messages about it.
    ready: bool,
    /// The guest has opened its end.
    open: bool,
    /// The guest has written to it since its driver started.
    spoke: bool,
    /// The host's end leads somewhere.
    connected: bool,
    /// Columns and rows.
    size: Option<(u16, u16)>,
    due: Due,
    input: VecDeque<u8>,
    refused: bool,
}

impl Port {
    pub(super) fn new(spec: PortSpec, wake: &Arc<EventFd>, config: &Arc<ConfigSpace>) -> Self {
        let mut name = spec.name;
        let end = (0..=super::MAX_NAME).rfind(|end| name.is_char_boundary(*end));
        name.truncate(end.unwrap_or(0));
        Self {
            name,
            output: spec.output,
            input_wanted: spec.input_wanted,
            wake: wake.clone(),
            config: spec.console.then(|| config.clone()),
            state: Mutex::new(State {
                connected: true,
                ..State::default()
            }),
        }
    }

    /// Takes input for the guest and says how many of `bytes` it took, from the front. When that is not all, wait for
    /// [`PortSpec::input_wanted`] and offer the rest again.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let taken = bytes.len().min(INPUT_SIZE - state.input.len().min(INPUT_SIZE));
        state.input.extend(bytes.iter().take(taken));
        state.refused |= taken < bytes.len();
        let listens = state.running && state.open;
        drop(state);
        if taken > 0 && listens {
            self.wake();
        }
        taken
    }

    /// Tells the port that its output has room again.
    pub fn output_drained(&self) {
        if self.is_running() {
            self.wake();
        }
    }

    /// Tells the guest that its terminal has another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut state = self.lock();
        if state.size == Some((columns, rows)) {
            return;
        }
        state.size = Some((columns, rows));
        state.due.resize = state.ready;
        let running = state.running;
        drop(state);
        if let Some(config) = &self.config {
            let [a, b] = columns.to_le_bytes();
            let [c, d] = rows.to_le_bytes();
            config.set(0, &[a, b, c, d]);
        }
        if running {
            self.wake();
        }
    }

    /// Tells the guest whether somebody is at the host's end. While nobody is, a program that reads gets the end of the
    /// file, and one that writes waits. A new port is connected.
    pub fn set_connected(&self, connected: bool) {
        let mut state = self.lock();
        if state.connected != connected {
            state.connected = connected;
            state.due.open = state.ready;
            if state.running {
                drop(state);
                self.wake();
            }
        }
    }

    /// Whether the guest has a driver for it.
    pub fn is_running(&self) -> bool {
        self.lock().running
    }

    /// Whether the guest has written to it since its driver started.
    pub fn has_spoken(&self) -> bool {
        self.lock().spoke
    }

    /// The name by which programs in the guest find it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A driver has come. It shows by control messages or by its first output that it listens.
    pub(super) fn start(&self) {
        let mut state = self.lock();
        (state.running, state.open) = (true, false);
        drop(state);
        self.want_input();
    }

    /// The driver has gone.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        (state.running, state.ready, state.open, state.spoke) = (false, false, false, false);
        state.due = Due::default();
    }

    /// Hands bytes of the guest to the host; says how many it took.
    pub(super) fn put(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let first = !mem::replace(&mut state.spoke, true);
        state.open = true;
        drop(state);
        if first {
            self.want_input();
        }
        self.output.put(bytes)
    }

    /// Whether the terminal's size is known.
    pub(super) fn has_size(&self) -> bool {
        self.config.is_some() && self.lock().size.is_some()
    }

    /// Whether the host would take at least one byte now.
    pub(super) fn has_room(&self) -> bool {
        self.output.has_room()
    }

    /// Whether there is input that the guest wants.
    pub(super) fn has_input(&self) -> bool {
        let state = self.lock();
        state.open && !state.input.is_empty()
    }

    /// The next bytes of input, up to `most`.
    pub(super) fn take_input(&self, most: usize) -> Vec<u8> {
        let mut state = self.lock();
        let n = most.min(state.input.len());
        let bytes = state.input.drain(..n).collect();
        let wanted = state.input.len() <= INPUT_SIZE / 4 && mem::take(&mut state.refused);
        drop(state);
        if wanted {
            self.want_input();
        }
        bytes
    }

    /// The driver asks for the ports of the device.
    pub(super) fn announce(&self) {
        self.lock().due.add = true;
    }

    /// The driver is ready for the port, which is told all there is to know.
    pub(super) fn set_ready(&self) {
        let mut state = self.lock();
        state.ready = true;
        state.due = Due {
            add: state.due.add,
            console: self.config.is_some(),
            name: !self.name.is_empty(),
            open: true,
            resize: self.config.is_some() && state.size.is_some(),
        };
    }

    /// The guest has opened or closed its end; `true` if it was opened.
    pub(super) fn set_open(&self, open: bool) -> bool {
        let was = mem::replace(&mut self.lock().open, open);
        open && !was
    }

    /// What is due, whether the host's end is connected, and the size.
    pub(super) fn due(&self) -> (Due, bool, (u16, u16)) {
        let state = self.lock();
        (state.due, state.connected, state.size.unwrap_or_default())
    }

    /// Changes what is due.
    pub(super) fn settle(&self, change: impl FnOnce(&mut Due)) {
        change(&mut self.lock().due);
    }

    fn want_input(&self) {
        // A full counter is a wish already.
        let _ = self.input_wanted.write(1);
    }

    fn wake(&self) {
        // As above.
        let _ = self.wake.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("name", &self.name).finish_non_exhaustive()
    }
}
