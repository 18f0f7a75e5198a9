//! A layer of changes over a base that stays as it is, so that many VMs share one image.
//!
//! ```text
//! 0        4096          4096 + map               data
//! │ header │ map: a bit per cluster │ … gap … │ clusters, each at its place on the disk │
//! ```
//!
//! The file is sparse: a cluster takes room when it is written. Its place follows from its number, so there is nothing to
//! allocate and nothing to leak; the map only says whether the layer or the base has it. A cluster that is written in part
//! is completed from the base first.
//!
//! What a crash can see: a bit reaches stable storage only after the data that it stands for. [`Overlay::sync`] writes the
//! data out, then the map, then the map out; bits that are set in between wait for the next one. Without ordering (for a
//! guest that cannot flush) the map goes to the host's page cache right after the data, which survives the end of this
//! process, but no more than a raw image does that of the host.
use super::{Disk, DiskError, raw::Raw};
use crate::{lock::lock, virtio::memory::Buffers};
use std::{
    collections::BTreeSet,
    io, iter,
    ops::Range,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

mod header;

use header::{Header, PAGE};

/// Changes over a base.
#[derive(Debug)]
pub struct Overlay {
    file: Raw,
    base: Box<Disk>,
    header: Header,
    /// Where clusters start in the file.
    data: u64,
    ordered: bool,
    map: Map,
    /// Held while clusters move from the base to the file.
    filling: Mutex<()>,
    /// Held while the map is written, so that an older state never replaces a newer one.
    committing: Mutex<()>,
}

/// One bit per cluster: whether the layer has it.
#[derive(Debug)]
struct Map {
    words: Box<[AtomicU64]>,
    /// Pages with bits that are not in the file yet.
    dirty: Mutex<BTreeSet<usize>>,
}

/// Words in a page of the map.
const WORDS: usize = PAGE as usize / 8;

impl Overlay {
    /// Opens the layer at `path` over `base`, or makes it. `ordered` keeps what the guest flushed through a crash of the
    /// host.
    ///
    /// # Errors
    /// The file cannot be used, is no overlay, or belongs to another base.
    pub fn open(path: &Path, base: Disk, direct: bool, ordered: bool) -> Result<Self, DiskError> {
        let file = Raw::open_or_create(path, direct)?;
        let failed = |doing| {
            move |source| DiskError::Io {
                path: path.to_owned(),
                doing,
                source,
            }
        };
        let fresh = Header::for_base(&base).map_err(failed("examine the base of"))?;
        let header = if file.file_len().map_err(failed("examine"))? == 0 {
            fresh.create(&file).map_err(failed("make"))?;
            fresh
        } else {
            Header::load(&file, &fresh)?
        };
        if !PAGE.is_multiple_of(file.block_size().into()) {
            return Err(DiskError::NoDirect(path.to_owned()));
        }
        let words = header.load_map(&file).map_err(failed("read the map of"))?;
        Ok(Self {
            data: header.data(),
            file,
            base: Box::new(base),
            header,
            ordered,
            map: Map {
                words,
                dirty: Mutex::default(),
            },
            filling: Mutex::default(),
            committing: Mutex::default(),
        })
    }

    /// See [`Disk::len`].
    pub fn len(&self) -> u64 {
        self.header.len
    }

    /// See [`Disk::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// See [`Disk::block_size`].
    pub fn block_size(&self) -> u32 {
        self.file.block_size().max(self.base.block_size())
    }

    /// See [`Disk::read`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn read(&self, to: &mut Buffers, offset: u64) -> io::Result<()> {
        for (range, changed) in self.runs(offset..offset.saturating_add(to.len() as u64)) {
            let rest = to.split_at((range.end - range.start) as usize).unwrap_or_default();
            if changed {
                self.file.read(to, self.data + range.start)?;
            } else {
                let below = self.below(&range);
                let beyond = to.split_at((below.end - below.start) as usize);
                if !below.is_empty() {
                    self.base.read(to, below.start)?;
                }
                beyond.unwrap_or_default().zero();
            }
            *to = rest;
        }
        Ok(())
    }

    /// See [`Disk::read_at`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        let mut rest = to;
        for (range, changed) in self.runs(offset..offset.saturating_add(rest.len() as u64)) {
            let (now, later) = rest.split_at_mut((range.end - range.start) as usize);
            if changed {
                self.file.read_at(now, self.data + range.start)?;
            } else {
                self.read_base(now, range)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// See [`Disk::write`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn write(&self, from: &mut Buffers, offset: u64) -> io::Result<()> {
        let range = offset..offset.saturating_add(from.len() as u64);
        self.change(&range, || self.file.write(from, self.data + offset))
    }

    /// See [`Disk::discard`]. The base keeps what it has, so only the layer's own clusters give room back.
    ///
    /// # Errors
    /// What the storage says.
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let cluster = self.header.cluster();
        let inner = range.start.next_multiple_of(cluster)..range.end - range.end % cluster;
        self.runs(inner)
            .filter(|(_, changed)| *changed)
            .try_for_each(|(run, _)| self.file.discard(self.data + run.start..self.data + run.end))
    }

    /// See [`Disk::write_zeroes`].
    ///
    /// # Errors
    /// What the storage says.
    pub fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let place = self.data + range.start..self.data + range.end;
        self.change(&range, || self.file.write_zeroes(place, unmap))
    }

    /// See [`Disk::sync`].
    ///
    /// # Errors
    /// What the storage says; the bits are tried again at the next one.
    pub fn sync(&self) -> io::Result<()> {
        let _one = lock(&self.committing);
        let pages = std::mem::take(&mut *lock(&self.map.dirty));
        // The state before the data goes out: it has no bit whose data comes later.
        let copies: Vec<_> = pages.iter().map(|page| (*page, self.map.page(*page))).collect();
        let written = self.file.sync().and_then(|()| {
            if copies.is_empty() {
                return Ok(());
            }
            for (page, copy) in copies {
                self.file.write_at(&copy, PAGE + page as u64 * PAGE)?;
            }
            self.file.sync()
        });
        if written.is_err() {
            lock(&self.map.dirty).extend(pages);
        }
        written
    }

    /// Does `write`, which changes `range` of the file, and notes that the layer has it.
    fn change(&self, range: &Range<u64>, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let clusters = self.clusters(range);
        if self.runs(range.clone()).all(|(_, changed)| changed) {
            return write();
        }
        let _one = lock(&self.filling);
        let cluster = self.header.cluster();
        let first = range.start - range.start % cluster;
        let end = range.end.next_multiple_of(cluster).min(self.len());
        if !self.map.has(clusters.start) {
            self.copy_up(first..range.start)?;
        }
        if !self.map.has(clusters.end - 1) {
            self.copy_up(range.end..end)?;
        }
        write()?;
        let pages = self.map.set(clusters);
        if self.ordered {
            lock(&self.map.dirty).extend(pages);
            return Ok(());
        }
        for page in pages {
            self.file.write_at(&self.map.page(page), PAGE + page as u64 * PAGE)?;
        }
        Ok(())
    }

    /// Copies less than a cluster from the base to the file.
    fn copy_up(&self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.read_base(&mut bytes, range.clone())?;
        self.file.write_at(&bytes, self.data + range.start)
    }

    /// Reads the base, beyond whose end there are zeroes.
    fn read_base(&self, to: &mut [u8], range: Range<u64>) -> io::Result<()> {
        let below = self.below(&range);
        let (there, beyond) = to.split_at_mut((below.end - below.start) as usize);
        beyond.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        self.base.read_at(there, below.start)
    }

    /// What of a range the base has.
    fn below(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.min(self.header.base_len);
        range.start.min(end)..end
    }

    fn clusters(&self, range: &Range<u64>) -> Range<u64> {
        let cluster = self.header.cluster();
        range.start / cluster..range.end.div_ceil(cluster)
    }

    /// The parts of a range that the layer has, and those that it has not.
    fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        let mut at = range.start;
        iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let cluster = self.header.cluster();
            let start = at;
            let changed = self.map.has(at / cluster);
            while at < range.end && self.map.has(at / cluster) == changed {
                at = range.end.min((at / cluster + 1) * cluster);
            }
            Some((start..at, changed))
        })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if lock(&self.map.dirty).is_empty() {
            return;
        }
        if let Err(error) = self.sync() {
            log::error!(
                "the overlay {} lacks its last changes: {error}",
                self.file.path().display()
            );
        }
    }
}

impl Map {
    fn has(&self, cluster: u64) -> bool {
        let word = self.words.get((cluster / 64) as usize);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (cluster % 64) & 1 != 0)
    }

    /// Sets bits, whose data is in the file, and gives the pages that have them.
    fn set(&self, clusters: Range<u64>) -> BTreeSet<usize> {
        let mut pages = BTreeSet::new();
        let mut at = clusters.start;
        while at < clusters.end {
            let index = (at / 64) as usize;
            let stop = clusters.end.min((at / 64 + 1) * 64);
            let bits = (u64::MAX >> (64 - (stop - at))) << (at % 64);
            if let Some(word) = self.words.get(index)
                && word.fetch_or(bits, Ordering::AcqRel) & bits != bits
            {
                pages.insert(index / WORDS);
            }
            at = stop;
        }
        pages
    }

    /// A page as it is in the file.
    fn page(&self, page: usize) -> Vec<u8> {
        let words = self.words.iter().skip(page * WORDS).take(WORDS);
        words
            .flat_map(|word| word.load(Ordering::Acquire).to_le_bytes())
            .collect()
    }
}

#[cfg(test)]
mod tests;
