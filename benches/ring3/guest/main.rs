//! A guest that has no kernel: it takes an order from the command line, drives one virtio device from ring 3, polling for
//! every answer, reports to the serial port and powers off.
//!
//! One CPU, no interrupts, no exceptions, memory mapped one to one: addresses are guest-physical ones. The second CPU only
//! carries the report out.
#![no_std]
#![no_main]

mod device;
mod exit;
mod load;
mod memory;
#[allow(dead_code, reason = "the host's half of it")]
#[path = "../src/order.rs"]
mod order;
mod queue;
mod start;

use core::{ffi::CStr, panic::PanicInfo};
use order::{Order, Report};

/// What went wrong, in the guest's own words.
type Failure = &'static str;

/// The zero page's pointer to the command line, `cmd_line_ptr` of `struct boot_params`.
const COMMAND_LINE: usize = 0x228;

/// Where [`start`] enters ring 3.
extern "sysv64" fn main(zero_page: *const u8) -> ! {
    match work(zero_page) {
        Ok(report) => exit::leave(format_args!("{report}")),
        Err(failure) => exit::leave(format_args!("{failure}")),
    }
}

fn work(zero_page: *const u8) -> Result<Report, Failure> {
    // SAFETY: the boot protocol gives the address of a zero page, whose fields lie at these offsets.
    let cmdline = unsafe { zero_page.add(COMMAND_LINE).cast::<u32>().read_unaligned() };
    // SAFETY: by the same protocol a text that is ended by a zero, and nothing writes to it.
    let cmdline = unsafe { CStr::from_ptr(cmdline as usize as *const _) };
    let order = Order::parse(cmdline.to_str().map_err(|_| "the order is no text")?);
    if !(1..=order::MOST_DEPTH).contains(&order.depth) || !(1..=order::MOST_BYTES).contains(&order.bytes) {
        return Err("the order asks for no or too many requests under way, or for no or too many bytes");
    }
    load::run(&order)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    exit::leave(format_args!("{info}"))
}
