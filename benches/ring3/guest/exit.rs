//! The way out: ring 3 has no ports, but it can wake the second CPU, which writes a text to the serial port and powers off.
use crate::start::{SECOND_CPU, TEXT};
use core::{
    fmt::{self, Write},
    hint::spin_loop,
    sync::atomic::{Ordering, fence},
};

/// Bytes that a text may have, its final zero included.
const ROOM: usize = 0x1000;

/// Interrupt command register of the local APIC.
const COMMAND_LOW: usize = 0xfee0_0300;
const COMMAND_HIGH: usize = 0xfee0_0310;
const SECOND: u32 = 1 << 24;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

/// Bytes that were written to [`TEXT`].
struct Text(usize);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.0 + 1 >= ROOM {
                return Err(fmt::Error);
            }
            // SAFETY: the page at TEXT is nobody else's until the second CPU is awake, and has ROOM bytes.
            unsafe { ((TEXT + self.0) as *mut u8).write_volatile(byte) };
            self.0 += 1;
        }
        Ok(())
    }
}

/// Writes the text and powers off.
pub fn leave(text: fmt::Arguments<'_>) -> ! {
    // What is too long loses its end; the page was zero before, so it is ended.
    let _ = Text(0).write_fmt(text);
    fence(Ordering::SeqCst);
    send(INIT);
    send(STARTUP | (SECOND_CPU >> 12) as u32);
    loop {
        spin_loop();
    }
}

fn send(command: u32) {
    // SAFETY: registers of the local APIC, which stand at this address after power-on.
    unsafe { (COMMAND_HIGH as *mut u32).write_volatile(SECOND) };
    // SAFETY: as above; this write sends.
    unsafe { (COMMAND_LOW as *mut u32).write_volatile(command) };
}
