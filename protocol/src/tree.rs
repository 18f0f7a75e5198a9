//! A tree of files as a stream of [`Piece`]s, for both ends of a copy. The one part of this crate that touches files.
//!
//! Reading follows no symbolic link below the root. Writing accepts only paths that stay below its root, and puts a
//! file into place by renaming, so nobody sees half of one.
use crate::agent::{CHUNK, Piece};
use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Why a tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file or folder refused.
    #[error("cannot {wish} {}", path.display())]
    File {
        /// What was asked, as "read".
        wish: &'static str,
        /// Of which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A name that cannot travel.
    #[error("{} is neither file, folder nor symbolic link, or its name is no UTF-8; leave it out", .0.display())]
    Kind(PathBuf),
    /// The other side sent a path that leads out of the tree, or bytes that belong to no file.
    #[error("the other side sent a broken tree at {0:?}")]
    Broken(String),
    /// The taker of the pieces failed.
    #[error("the connection ended")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn at<'a>(wish: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> TreeError + 'a {
    move |source| TreeError::File {
        wish,
        path: path.to_path_buf(),
        source,
    }
}

/// Reads the tree at `root` and gives its pieces to `take`, without the closing [`Piece::End`].
pub fn send<E>(root: &Path, take: &mut impl FnMut(Piece) -> Result<(), E>) -> Result<(), TreeError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    // The root itself may be a link to what is meant; below it links stay links.
    let kind = fs::metadata(root).map_err(at("read", root))?;
    let mut todo = vec![(root.to_path_buf(), String::new(), kind)];
    while let Some((path, name, meta)) = todo.pop() {
        let mut give = |piece| take(piece).map_err(|e| TreeError::Connection(Box::new(e)));
        let mode = meta.mode() & 0o7777;
        if meta.is_dir() {
            let mut inner = Vec::new();
            for entry in fs::read_dir(&path).map_err(at("list", &path))? {
                let entry = entry.map_err(at("list", &path))?;
                let child = entry.path();
                let leaf = entry
                    .file_name()
                    .into_string()
                    .map_err(|_| TreeError::Kind(child.clone()))?;
                let meta = fs::symlink_metadata(&child).map_err(at("read", &child))?;
                let name = if name.is_empty() {
                    leaf
                } else {
                    format!("{name}/{leaf}")
                };
                inner.push((child, name, meta));
            }
            inner.sort_by(|a, b| b.1.cmp(&a.1));
            give(Piece::Folder { path: name, mode })?;
            todo.append(&mut inner);
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(at("read", &path))?;
            let target = target
                .into_os_string()
                .into_string()
                .map_err(|_| TreeError::Kind(path.clone()))?;
            give(Piece::Link { path: name, target })?;
        } else if meta.is_file() {
            send_file(&path, name, mode, &mut give)?;
        } else {
            return Err(TreeError::Kind(path));
        }
    }
    Ok(())
}

fn send_file(
    path: &Path,
    name: String,
    mode: u32,
    give: &mut impl FnMut(Piece) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let mut file = File::open(path).map_err(at("open", path))?;
    let modified = file.metadata().and_then(|m| m.modified()).map_err(at("read", path))?;
    let modified = modified
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    give(Piece::File {
        path: name,
        mode,
        modified,
    })?;
    loop {
        let mut bytes = vec![0; CHUNK];
        let count = file.read(&mut bytes).map_err(at("read", path))?;
        if count == 0 {
            return Ok(());
        }
        bytes.truncate(count);
        give(Piece::Data(bytes))?;
    }
}

/// Writes the pieces of one tree.
#[derive(Debug)]
pub struct Receiver {
    root: PathBuf,
    open: Option<Open>,
    /// Folders get their mode last, so that a read-only one can be filled.
    modes: Vec<(PathBuf, u32)>,
}

#[derive(Debug)]
struct Open {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    modified: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Still there only if the file never came to its end.
        let _ = fs::remove_file(&self.temporary);
    }
}

impl Receiver {
    /// A tree that goes to `to`, or into it under `name` if `to` is a folder or ends with a slash. Missing folders
    /// above it are created.
    pub fn new(to: &str, name: &str) -> Result<Self, TreeError> {
        let mut root = PathBuf::from(to);
        if to.ends_with('/') || root.is_dir() {
            if name.is_empty() || name.contains('/') || name == ".." {
                return Err(TreeError::Broken(name.to_string()));
            }
            root.push(name);
        }
        if let Some(parent) = root.parent() {
            fs::create_dir_all(parent).map_err(at("create", parent))?;
        }
        Ok(Self {
            root,
            open: None,
            modes: Vec::new(),
        })
    }

    /// Where the tree goes.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the next piece; false once the tree is complete.
    pub fn take(&mut self, piece: Piece) -> Result<bool, TreeError> {
        match piece {
            Piece::Data(bytes) => {
                let open = self
                    .open
                    .as_mut()
                    .ok_or_else(|| TreeError::Broken("bytes without a file".to_string()))?;
                open.file.write_all(&bytes).map_err(at("write", &open.path))?;
            }
            Piece::Folder { path, mode } => {
                self.finish()?;
                let path = self.place(&path)?;
                if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                    fs::create_dir(&path).map_err(at("create", &path))?;
                }
                self.modes.push((path, mode));
            }
            Piece::File { path, mode, modified } => {
                self.finish()?;
                let path = self.place(&path)?;
                self.open = Some(open(path, mode, modified)?);
            }
            Piece::Link { path, target } => {
                self.finish()?;
                let path = self.place(&path)?;
                let _ = fs::remove_file(&path);
                symlink(target, &path).map_err(at("create", &path))?;
            }
            Piece::End => {
                self.finish()?;
                for (path, mode) in self.modes.drain(..).rev() {
                    fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(at("change", &path))?;
                }
                return Ok(false);
            }
            Piece::Failed { reason } => return Err(TreeError::Connection(reason.into())),
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), TreeError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(open.modified);
        open.file.set_modified(modified).map_err(at("write", &open.path))?;
        fs::rename(&open.temporary, &open.path).map_err(at("create", &open.path))
    }

    /// The place of a relative path below the root. No component may be a link that was there before: what this
    /// stream wrote as a link is never written through, because `create_dir` and `rename` do not follow one.
    fn place(&self, relative: &str) -> Result<PathBuf, TreeError> {
        let broken = || TreeError::Broken(relative.to_string());
        let mut path = self.root.clone();
        let mut components = Path::new(relative).components().peekable();
        while let Some(component) = components.next() {
            let Component::Normal(name) = component else {
                return Err(broken());
            };
            path.push(name);
            if components.peek().is_some() && !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                return Err(broken());
            }
        }
        Ok(path)
    }
}

fn open(path: PathBuf, mode: u32, modified: u64) -> Result<Open, TreeError> {
    let mut leaf = OsString::from(".");
    leaf.push(path.file_name().unwrap_or_default());
    // Two copies of one file may run at once, in two processes or in two threads of one.
    let (process, thread) = (std::process::id(), std::thread::current().id());
    leaf.push(format!(".coracle-{process}-{thread:?}"));
    let temporary = path.with_file_name(leaf);
    let _ = fs::remove_file(&temporary);
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(at("create", &temporary))?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(at("change", &temporary))?;
    Ok(Open {
        file,
        temporary,
        path,
        modified,
    })
}

#[cfg(test)]
mod tests;
