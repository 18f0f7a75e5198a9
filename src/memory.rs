//! Guest memory: host mappings that KVM shows to the guest, and how file bytes get into them.
#![allow(unsafe_code, reason = "maps memory and reads files straight into it")]
use crate::config::spec::{HugePages, MemorySpec};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use std::{fs::File, io, ops::Range, os::fd::AsRawFd, ptr};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestRegionMmap, VolatileSlice,
    mmap::MmapRegionBuilder,
};

/// The size of a huge page on both architectures (with 4 KiB base pages).
const HUGE: u64 = 2 << 20;

/// The size of a page, of the host and of the guest.
pub(crate) const PAGE: u64 = 4096;

/// Why guest memory could not be made or filled.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has no room.
    #[error("cannot reserve {mib} MiB of guest memory; give the guest less with machine-config.mem_size_mib")]
    Reserve {
        /// What was asked for.
        mib: u64,
        /// Why not.
        source: io::Error,
    },
    /// The pool of 2 MiB pages is too small.
    #[error(
        "cannot take {mib} MiB from the host's pool of 2 MiB pages; enlarge it with `sysctl vm.nr_hugepages={pages}` \
         or set machine-config.huge_pages to \"Transparent\""
    )]
    HugePages {
        /// What was asked for.
        mib: u64,
        /// The pages that it takes.
        pages: u64,
        /// Why not.
        source: io::Error,
    },
    /// KVM refused a memory slot.
    #[error("KVM refused guest memory at {at:#x}; give the guest less memory")]
    Slot {
        /// Guest-physical base.
        at: u64,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
    /// A file's bytes could not be placed.
    #[error("cannot place {what} at guest address {at:#x}; give the guest more memory or use a smaller file")]
    Place {
        /// "the kernel" or "the initrd".
        what: &'static str,
        /// Guest-physical address.
        at: u64,
        /// Why not.
        source: GuestMemoryError,
    },
    /// A file could not be read.
    #[error("cannot read {what}; the file shrank or its disk failed")]
    Read {
        /// "the kernel" or "the initrd".
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The regions do not make one memory; a mistake in the layout of the architecture.
    #[error("the memory layout is inconsistent: {0}")]
    Layout(String),
}

/// One anonymous mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    base: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is plain memory; all access goes through vm-memory's volatile operations.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference gives out addresses only.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are those of a mapping that this value owns.
        unsafe { libc::munmap(self.base, self.length) };
    }
}

/// All RAM of one machine.
#[derive(Debug)]
pub(crate) struct GuestRam {
    /// The view that devices use.
    view: GuestMemoryMmap,
    /// Guest-physical ranges, sorted.
    ranges: Vec<Range<u64>>,
    /// What the view points into; dropped after it.
    mappings: Vec<Mapping>,
}

impl GuestRam {
    /// Reserves the ranges. No page is touched yet.
    pub(crate) fn reserve(spec: MemorySpec, ranges: Vec<Range<u64>>) -> Result<Self, MemoryError> {
        let mut mappings = Vec::with_capacity(ranges.len());
        let mut regions = Vec::with_capacity(ranges.len());
        for range in &ranges {
            let mapping = map_anonymous(spec, range.end - range.start)?;
            // SAFETY: the pointer is to `length` bytes of a live mapping that outlives the region, see `GuestRam`.
            let builder = unsafe { MmapRegionBuilder::new(mapping.length).with_raw_mmap_pointer(mapping.base.cast()) };
            let region = builder.build().map_err(|e| MemoryError::Layout(e.to_string()))?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(range.start))
                    .ok_or_else(|| MemoryError::Layout(format!("{range:#x?} leaves the address space")))?,
            );
            mappings.push(mapping);
        }
        let view = GuestMemoryMmap::from_regions(regions).map_err(|e| MemoryError::Layout(e.to_string()))?;
        Ok(Self { view, ranges, mappings })
    }

    /// Shows the memory to the guest, one slot per range.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<(), MemoryError> {
        for (slot, (range, mapping)) in (0..).zip(self.ranges.iter().zip(&self.mappings)) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: range.start,
                memory_size: range.end - range.start,
                userspace_addr: mapping.base as u64,
            };
            // SAFETY: the mapping lives as long as this value, which a machine drops after its VM and vCPUs.
            unsafe { vm.set_user_memory_region(region) }.map_err(|source| MemoryError::Slot {
                at: range.start,
                source,
            })?;
        }
        Ok(())
    }

    /// The view that devices and table writers use.
    pub(crate) fn view(&self) -> &GuestMemoryMmap {
        &self.view
    }

    /// Guest-physical ranges, sorted.
    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Reads bytes of a file to guest address `at`.
    pub(crate) fn copy_in(
        &self,
        what: &'static str,
        file: &File,
        bytes: Range<u64>,
        at: u64,
    ) -> Result<(), MemoryError> {
        let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
        let place = |source| MemoryError::Place { what, at, source };
        let slice = self.view.get_slice(GuestAddress(at), length).map_err(place)?;
        let target = slice.ptr_guard_mut();
        let mut done = 0;
        while done < length {
            let offset = i64::try_from(bytes.start + done as u64).unwrap_or(i64::MAX);
            // SAFETY: `done < length`, so the pointer stays within the slice, which is `length` bytes of live mapping.
            let to = unsafe { target.as_ptr().add(done) };
            // SAFETY: `to` has `length - done` writable bytes behind it, and the guest does not run yet.
            let n = unsafe { libc::pread64(file.as_raw_fd(), to.cast(), length - done, offset) };
            match usize::try_from(n) {
                Ok(0) => {
                    return Err(MemoryError::Read {
                        what,
                        source: io::ErrorKind::UnexpectedEof.into(),
                    });
                }
                Ok(n) => done += n,
                Err(_) => {
                    let source = io::Error::last_os_error();
                    if source.kind() != io::ErrorKind::Interrupted {
                        return Err(MemoryError::Read { what, source });
                    }
                }
            }
        }
        Ok(())
    }

    /// Maps whole pages of a file privately over guest memory: nothing is copied before the guest writes.
    pub(crate) fn map_in(
        &self,
        what: &'static str,
        file: &File,
        pages: Range<u64>,
        at: u64,
    ) -> Result<(), MemoryError> {
        let length = usize::try_from(pages.end - pages.start).unwrap_or(usize::MAX);
        let place = |source| MemoryError::Place { what, at, source };
        let slice = self.view.get_slice(GuestAddress(at), length).map_err(place)?;
        let target = slice.ptr_guard_mut().as_ptr();
        let offset = i64::try_from(pages.start).unwrap_or(i64::MAX);
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: replaces `length` bytes within a mapping that this value owns by others of the same size and rights.
        let result = unsafe { libc::mmap64(target.cast(), length, rights, flags, file.as_raw_fd(), offset) };
        if result == libc::MAP_FAILED {
            return Err(MemoryError::Read {
                what,
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }
}

/// Gives the whole pages of a piece of guest memory back to the host; the guest finds zeroes there when it comes back (or
/// what a mapped kernel file has).
pub(crate) fn give_back(piece: VolatileSlice<'_>, pool_pages: bool) {
    let page = if pool_pages { HUGE } else { PAGE } as usize;
    let start = piece.ptr_guard_mut().as_ptr();
    let skip = start.align_offset(page);
    let len = piece.len().saturating_sub(skip) / page * page;
    if len == 0 {
        return;
    }
    // SAFETY: `skip` is less than the piece's length, or `len` would be 0.
    let from = unsafe { start.add(skip) };
    // SAFETY: the pages lie within a piece of guest memory, which stays mapped while devices run; that their bytes change is
    // what the guest has asked for, and nothing of the VMM keeps references into guest memory.
    let result = unsafe { libc::madvise(from.cast(), len, libc::MADV_DONTNEED) };
    if result != 0 {
        log::debug!("{len} bytes of guest memory stay: {}", io::Error::last_os_error());
    }
}

/// Maps `length` bytes so that guest 2 MiB pages and host 2 MiB pages fall together.
fn map_anonymous(spec: MemorySpec, length: u64) -> Result<Mapping, MemoryError> {
    let mib = spec.bytes >> 20;
    let pool = spec.huge_pages == HugePages::Hugetlb2M;
    let failed = |source| {
        if pool {
            MemoryError::HugePages {
                mib,
                pages: spec.bytes.div_ceil(HUGE),
                source,
            }
        } else {
            MemoryError::Reserve { mib, source }
        }
    };
    let too_big = || failed(io::ErrorKind::OutOfMemory.into());
    let length = usize::try_from(length).map_err(|_| too_big())?;
    let slack = if pool { 0 } else { HUGE as usize };
    let padded = length.checked_add(slack).ok_or_else(too_big)?;
    // The pool is reserved at once (no MAP_NORESERVE there): running out later would be a SIGBUS in the guest.
    let flags = libc::MAP_PRIVATE
        | libc::MAP_ANONYMOUS
        | if pool {
            libc::MAP_HUGETLB | libc::MAP_HUGE_2MB
        } else {
            libc::MAP_NORESERVE
        };
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let raw = unsafe {
        libc::mmap(
            ptr::null_mut(),
            padded,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if raw == libc::MAP_FAILED {
        return Err(failed(io::Error::last_os_error()));
    }
    let base = if pool { raw } else { trim(raw, length, padded) };
    let mapping = Mapping { base, length };
    if spec.huge_pages == HugePages::Transparent {
        // Only advice: a host without transparent huge pages answers EINVAL, and ordinary pages serve as well.
        // SAFETY: advice on a mapping that we own changes none of its bytes.
        unsafe { libc::madvise(mapping.base, mapping.length, libc::MADV_HUGEPAGE) };
    }
    Ok(mapping)
}

/// Gives back what a padded mapping has before the first 2 MiB boundary and after `length` bytes from there.
fn trim(raw: *mut libc::c_void, length: usize, padded: usize) -> *mut libc::c_void {
    let head = raw.align_offset(HUGE as usize);
    // SAFETY: the padding is HUGE bytes, so `head` bytes on is still within the mapping.
    let base = unsafe { raw.add(head) };
    // SAFETY: `head + length <= padded`, as above.
    let tail = unsafe { base.add(length) };
    for (start, size) in [(raw, head), (tail, padded - head - length)] {
        if size > 0 {
            // SAFETY: a part of the fresh mapping that nothing points into.
            unsafe { libc::munmap(start, size) };
        }
    }
    base
}

#[cfg(test)]
mod tests;
