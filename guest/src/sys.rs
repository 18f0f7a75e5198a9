//! The system calls that no safe interface offers: sessions of new processes, and GPIO lines.
#![allow(
    unsafe_code,
    reason = "code between fork and exec, and an ioctl on a struct of the kernel's, have no safe interface"
)]
use rustix::{
    ioctl::{Updater, ioctl, opcode},
    process::{ioctl_tiocsctty, setsid},
};
use std::{
    fs::File,
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    os::unix::process::CommandExt as _,
    process::Command,
};

/// Has the command start a session of its own, so that it can be told from PID 1.
pub(crate) fn in_session_of_its_own(command: &mut Command) {
    let start = || setsid().map(|_| ()).map_err(io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid(2) is one, and turning an errno
    // into an `io::Error` allocates nothing.
    unsafe { command.pre_exec(start) };
}

/// Has the command start a session that the terminal at its standard input controls.
pub(crate) fn in_session_with_terminal(command: &mut Command) {
    let start = || {
        setsid()?;
        // Standard input is the terminal by now: the new process has its streams in place.
        Ok(ioctl_tiocsctty(rustix::stdio::stdin())?)
    };
    // SAFETY: as above; ioctl(2) is a bare system call.
    unsafe { command.pre_exec(start) };
}

/// `struct gpio_v2_line_request` of `linux/gpio.h`.
#[repr(C)]
struct LineRequest {
    offsets: [u32; 64],
    consumer: [u8; 32],
    flags: u64,
    attribute_count: u32,
    padding: [u32; 5],
    attributes: [[u64; 3]; 10],
    line_count: u32,
    event_buffer_size: u32,
    padding_2: [u32; 5],
    fd: i32,
}

const GPIO_V2_LINE_FLAG_INPUT: u64 = 1 << 2;
const GPIO_V2_LINE_FLAG_EDGE_RISING: u64 = 1 << 4;

/// A descriptor that becomes readable when the line of the GPIO chip rises.
pub(crate) fn watch_gpio_line(chip: &File, line: u32) -> io::Result<OwnedFd> {
    const GPIO_V2_GET_LINE: rustix::ioctl::Opcode = opcode::read_write::<LineRequest>(0xb4, 0x07);
    let mut request = LineRequest {
        offsets: std::array::from_fn(|at| if at == 0 { line } else { 0 }),
        consumer: std::array::from_fn(|at| b"power button".get(at).copied().unwrap_or(0)),
        flags: GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING,
        attribute_count: 0,
        padding: [0; 5],
        attributes: [[0; 3]; 10],
        line_count: 1,
        event_buffer_size: 0,
        padding_2: [0; 5],
        fd: -1,
    };
    // SAFETY: the opcode carries the size of `LineRequest`, whose layout is the kernel's (tested below).
    let update = unsafe { Updater::<GPIO_V2_GET_LINE, LineRequest>::new(&mut request) };
    // SAFETY: the kernel reads and writes the request alone, which outlives the call.
    unsafe { ioctl(chip, update) }?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(request.fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_request_has_the_kernels_layout() {
        assert_eq!(size_of::<LineRequest>(), 592);
        assert_eq!(std::mem::offset_of!(LineRequest, flags), 288);
        assert_eq!(std::mem::offset_of!(LineRequest, line_count), 560);
        assert_eq!(std::mem::offset_of!(LineRequest, fd), 588);
        assert_eq!(opcode::read_write::<LineRequest>(0xb4, 0x07), 0xc250_b407);
    }
}
