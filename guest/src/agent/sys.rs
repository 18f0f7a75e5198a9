//! System calls of the agent that no safe interface offers: ioctls for entropy and for freezing file systems.
#![allow(unsafe_code, reason = "ioctls on the kernel's own structures have no safe interface")]
use rustix::ioctl::{IntegerSetter, NoArg, Opcode, Setter, ioctl, opcode};
use std::{fs::File, io, os::fd::AsFd};

/// `struct rand_pool_info` of `linux/random.h`, with as much room as one message has.
#[repr(C)]
struct Pool {
    entropy_bits: i32,
    size: i32,
    bytes: [u8; MAX_POOL],
}

const MAX_POOL: usize = 4096;

const RNDADDENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
const RNDRESEEDCRNG: Opcode = opcode::none(b'R', 0x07);
const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Adds random bytes to the kernel's, counts them as such, and has the generator use them at once.
pub(super) fn add_entropy(random: &File, bytes: &[u8]) -> io::Result<()> {
    let too_many = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let size = i32::try_from(bytes.len().min(MAX_POOL)).map_err(too_many)?;
    let mut pool = Pool {
        entropy_bits: size * 8,
        size,
        bytes: [0; MAX_POOL],
    };
    for (to, from) in pool.bytes.iter_mut().zip(bytes) {
        *to = *from;
    }
    // SAFETY: the kernel reads the two numbers and then `size` bytes, all of which `pool` has.
    let add = unsafe { Setter::<RNDADDENTROPY, Pool>::new(pool) };
    // SAFETY: as above; the pool outlives the call.
    unsafe { ioctl(random, add) }?;
    // SAFETY: the request has no argument.
    let reseed = unsafe { NoArg::<RNDRESEEDCRNG>::new() };
    // SAFETY: as above.
    Ok(unsafe { ioctl(random, reseed) }?)
}

/// Holds the file system of a folder still, or lets it go on.
pub(super) fn freeze(folder: impl AsFd, still: bool) -> io::Result<()> {
    if still {
        ask::<FIFREEZE>(folder)
    } else {
        ask::<FITHAW>(folder)
    }
}

fn ask<const REQUEST: Opcode>(file: impl AsFd) -> io::Result<()> {
    // SAFETY: both requests ignore their argument.
    let request = unsafe { IntegerSetter::<REQUEST>::new_usize(0) };
    // SAFETY: as above.
    Ok(unsafe { ioctl(file, request) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!(RNDADDENTROPY, 0x4008_5203);
        assert_eq!(RNDRESEEDCRNG, 0x5207);
        assert_eq!((FIFREEZE, FITHAW), (0xc004_5877, 0xc004_5878));
        assert_eq!(std::mem::offset_of!(Pool, bytes), 8);
    }
}
