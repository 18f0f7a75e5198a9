//! The file behind a disk. Each sector begins with its own number, by which the guest knows what it reads.
use crate::Outcome;
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

const SECTOR: usize = 512;
const SECTORS: u64 = (32 << 20) / SECTOR as u64;

/// The file, in the page cache. One that is written to is made anew, since an engine may let go of the last run's a
/// moment after the end of its VM.
pub(crate) fn make(folder: &Path, write: bool) -> Outcome<PathBuf> {
    let path = folder.join(if write { "disk" } else { "disk-ro" });
    if write && path.exists() {
        fs::remove_file(&path)?;
    }
    if path.exists() {
        // Into the page cache, wherever it was.
        fs::read(&path)?;
        return Ok(path);
    }
    let made = path.with_extension("new");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&made)?);
    for number in 0..SECTORS {
        file.write_all(&number.to_le_bytes())?;
        file.write_all(&[0; SECTOR - 8])?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    fs::rename(made, &path)?;
    Ok(path)
}
