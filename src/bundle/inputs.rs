//! What a bundle was made from, as one digest. Files whose size and times are as they were are not read again.
use super::store::{self, StoreError};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

/// Digests by label, and the state of the files that they were computed from.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Inputs {
    digests: BTreeMap<String, String>,
    stamps: BTreeMap<String, Stamp>,
    #[serde(skip)]
    remembered: BTreeMap<String, Stamp>,
}

/// What changes when a file changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    sha256: String,
}

impl Inputs {
    /// No inputs yet, but the digests that an earlier run left in `file`, if it is there and readable.
    pub(crate) fn remembering(file: &Path) -> Self {
        let earlier = fs::read(file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        Self {
            remembered: earlier.unwrap_or_default().stamps,
            ..Self::default()
        }
    }

    /// Adds something that is no file.
    pub(crate) fn fact(&mut self, label: &str, value: &str) {
        self.digests.insert(label.to_string(), store::sha256(value.as_bytes()));
    }

    /// Adds a file's content.
    pub(crate) fn file(&mut self, label: &str, path: &Path) -> Result<(), StoreError> {
        let meta = fs::metadata(path).map_err(|e| StoreError::io("read", path, e))?;
        let key = path.to_string_lossy().into_owned();
        let mut stamp = Stamp {
            inode: (meta.dev(), meta.ino()),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            sha256: String::new(),
        };
        stamp.sha256 = match self.remembered.get(&key) {
            Some(known) if stamp.same_file(known) => known.sha256.clone(),
            _ => store::sha256_of_file(path)?,
        };
        self.digests.insert(label.to_string(), stamp.sha256.clone());
        self.stamps.insert(key, stamp);
        Ok(())
    }

    /// One digest over all labels and digests.
    pub(crate) fn digest(&self) -> String {
        store::sha256(&store::json(&self.digests))
    }

    /// For [`Inputs::remembering`].
    pub(crate) fn to_json(&self) -> Vec<u8> {
        store::json(self)
    }
}

impl Stamp {
    fn same_file(&self, other: &Self) -> bool {
        (self.inode, self.size, self.modified, self.changed) == (other.inode, other.size, other.modified, other.changed)
    }
}
