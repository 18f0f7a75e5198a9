//! The VMM's end of the second serial port: frames from PID 1 of the guest become [`Report`]s.
//!
//! Runs on the vCPU's thread that wrote the last byte. The guest is hostile: a frame is bounded, and bytes that are no
//! frame close this end for good.
use coracle_devices::serial::SerialOutput;
use coracle_protocol::{frame, report::Report};
use std::sync::{Mutex, PoisonError};

/// Bytes that a report may take; far below what a frame may.
const MAX_REPORT: usize = 4096;

/// Called with each report.
pub(crate) type OnReport = Box<dyn Fn(Report) + Send + Sync>;

/// Collects bytes into reports.
pub(crate) struct AgentPort {
    /// `None` once the guest has sent bytes that are no report.
    bytes: Mutex<Option<Vec<u8>>>,
    on_report: OnReport,
}

impl AgentPort {
    pub(crate) fn new(on_report: OnReport) -> Self {
        Self {
            bytes: Mutex::new(Some(Vec::new())),
            on_report,
        }
    }

    /// Takes complete frames off the front of `bytes`.
    fn decode(bytes: &mut Vec<u8>) -> Result<Vec<Report>, frame::FrameError> {
        let mut reports = Vec::new();
        while let Some(head) = bytes.first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if length > MAX_REPORT {
                return Err(frame::FrameError::TooLong(length));
            }
            let Some(mut whole) = bytes.get(..4 + length) else {
                break;
            };
            reports.extend(frame::read::<Report>(&mut whole)?);
            bytes.drain(..4 + length);
        }
        Ok(reports)
    }
}

impl SerialOutput for AgentPort {
    fn put(&self, new: &[u8]) -> usize {
        let mut slot = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bytes) = slot.as_mut() else { return new.len() };
        bytes.extend_from_slice(new);
        let reports = Self::decode(bytes);
        if let Err(error) = &reports {
            log::warn!("the guest's agent port is closed: {error}");
            *slot = None;
        }
        drop(slot);
        for report in reports.unwrap_or_default() {
            (self.on_report)(report);
        }
        new.len()
    }

    fn has_room(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc::channel};

    fn port() -> (Arc<AgentPort>, std::sync::mpsc::Receiver<Report>) {
        let (sender, receiver) = channel();
        (
            Arc::new(AgentPort::new(Box::new(move |report| sender.send(report).unwrap()))),
            receiver,
        )
    }

    #[test]
    fn reports_arrive_whole_though_the_bytes_come_one_by_one() {
        let (port, reports) = port();
        let mut wire = Vec::new();
        frame::write(&mut wire, &Report::Exit { code: 3 }).unwrap();
        frame::write(&mut wire, &Report::Failed { reason: "x".into() }).unwrap();
        for byte in wire {
            assert_eq!(port.put(&[byte]), 1);
        }
        assert_eq!(reports.recv().unwrap(), Report::Exit { code: 3 });
        assert_eq!(reports.recv().unwrap(), Report::Failed { reason: "x".into() });
    }

    #[test]
    fn garbage_closes_the_port_and_holds_no_memory() {
        for garbage in [[0xff; 8].as_slice(), &[0, 0, 0, 1, 0xff]] {
            let (port, reports) = port();
            port.put(garbage);
            assert!(port.bytes.lock().unwrap().is_none());
            port.put(&vec![0; 1 << 20]);
            assert!(reports.try_recv().is_err());
        }
    }
}
