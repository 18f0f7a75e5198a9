//! A tree of kernel modules: finds modules by name and puts them in an order in which they can be loaded.
//!
//! Dependencies come from the modules themselves (their `.modinfo` section), since a package that was unpacked but not
//! installed has no `modules.dep`. Reads the tree only, on the caller's thread.
use super::payload::{self, PayloadError};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Why modules could not be found.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file or folder of the tree cannot be read.
    #[error("cannot read {} of the module tree", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is no module tree.
    #[error(
        "{} is no module tree: give the folder of one kernel release, such as /lib/modules/6.1.0-18-amd64",
        .0.display()
    )]
    NoTree(PathBuf),
    /// Neither a module file nor built in.
    #[error(
        "the kernel {release} has no module {name}, neither as a file nor built in: leave it out, or use a kernel that has it"
    )]
    Missing {
        /// The kernel release.
        release: String,
        /// The module's name.
        name: String,
    },
    /// The modules wait for each other.
    #[error("the module {0} depends on itself: the module tree is broken")]
    Circle(String),
    /// The file is no module.
    #[error("{} is no kernel module: {wrong}", path.display())]
    NoModule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// The module is compressed in a way that cannot be undone here.
    #[error("the module {} cannot be unpacked", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: PayloadError,
    },
}

/// One module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The name by which the kernel knows it, with `_`.
    pub name: String,
    /// The file, which may be compressed.
    pub path: PathBuf,
}

impl Module {
    /// The module as `finit_module` takes it, unpacked if need be.
    pub fn read(&self) -> Result<Vec<u8>, ModuleError> {
        let path = &self.path;
        let bytes = fs::read(path).map_err(|source| ModuleError::Read {
            path: path.clone(),
            source,
        })?;
        if path.extension().is_some_and(|extension| extension == "ko") {
            return Ok(bytes);
        }
        payload::decompress(&bytes).map_err(|source| ModuleError::Compressed {
            path: path.clone(),
            source,
        })
    }
}

/// The modules of one kernel release.
#[derive(Debug, Clone)]
pub struct Tree {
    release: String,
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Tree {
    /// Looks through the folder of one release, which holds `kernel/` and `modules.builtin`.
    ///
    /// A folder above with a single release in it, such as `lib/modules`, does as well.
    pub fn open(folder: &Path) -> Result<Self, ModuleError> {
        let folder = only_release(folder)?;
        let release = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = BTreeMap::new();
        collect(&folder.join("kernel"), &mut files)?;
        for extra in ["updates", "extra"].map(|name| folder.join(name)) {
            if extra.is_dir() {
                collect(&extra, &mut files)?;
            }
        }
        let list = folder.join("modules.builtin");
        let built_in = match fs::read_to_string(&list) {
            Ok(text) => text
                .lines()
                .filter_map(|line| module_name(Path::new(line.trim())))
                .collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(source) => return Err(ModuleError::Read { path: list, source }),
        };
        Ok(Self {
            release,
            files,
            built_in,
        })
    }

    /// The kernel release, as in `uname -r`.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Whether there is such a module, as a file or built in. `-` and `_` are the same in names.
    pub fn has(&self, name: &str) -> bool {
        let name = normal(name);
        self.files.contains_key(&name) || self.built_in.contains(&name)
    }

    /// The module files that `names` and their dependencies need, in an order in which they can be loaded.
    ///
    /// What is built in needs no file. A name that the kernel does not have is an error; a soft dependency that it
    /// does not have is none.
    pub fn resolve(&self, names: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut order = Order {
            tree: self,
            open: BTreeSet::new(),
            done: BTreeSet::new(),
            modules: Vec::new(),
        };
        for name in names {
            order.add(&normal(name))?;
        }
        Ok(order.modules)
    }
}

/// A walk through the dependencies, each module after what it needs.
struct Order<'a> {
    tree: &'a Tree,
    open: BTreeSet<String>,
    done: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.done.contains(name) {
            return Ok(());
        }
        let Some(path) = self.tree.files.get(name) else {
            return if self.tree.built_in.contains(name) {
                Ok(())
            } else {
                Err(ModuleError::Missing {
                    release: self.tree.release.clone(),
                    name: name.to_string(),
                })
            };
        };
        if !self.open.insert(name.to_string()) {
            return Err(ModuleError::Circle(name.to_string()));
        }
        let module = Module {
            name: name.to_string(),
            path: path.clone(),
        };
        let info = ModuleInfo::of(&module)?;
        for soft in &info.before {
            // Two modules may ask for each other softly; then any order will do.
            if self.tree.files.contains_key(soft) && !self.open.contains(soft) {
                self.add(soft)?;
            }
        }
        for dependency in &info.depends {
            self.add(dependency)?;
        }
        self.open.remove(name);
        self.done.insert(name.to_string());
        self.modules.push(module);
        Ok(())
    }
}

/// What a module says of itself that matters for the order.
#[derive(Debug, Default, PartialEq, Eq)]
struct ModuleInfo {
    depends: Vec<String>,
    before: Vec<String>,
}

impl ModuleInfo {
    fn of(module: &Module) -> Result<Self, ModuleError> {
        let bytes = module.read()?;
        let section = elf_section(&bytes, b".modinfo").map_err(|wrong| ModuleError::NoModule {
            path: module.path.clone(),
            wrong,
        })?;
        Ok(Self::parse(section))
    }

    /// The section is a list of `key=value`, each ended by NUL.
    fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for text in section
            .split(|&byte| byte == 0)
            .filter_map(|text| str::from_utf8(text).ok())
        {
            if let Some(names) = text.strip_prefix("depends=") {
                info.depends
                    .extend(names.split(',').filter(|name| !name.is_empty()).map(normal));
            } else if let Some(soft) = text.strip_prefix("softdep=pre:") {
                let before = soft.split("post:").next().unwrap_or_default();
                info.before.extend(before.split_whitespace().map(normal));
            }
        }
        info
    }
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// `virtio_blk` of `drivers/block/virtio-blk.ko.xz`; nothing for other files.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| normal(name))
}

fn only_release(folder: &Path) -> Result<PathBuf, ModuleError> {
    let is_release = |path: &Path| path.join("kernel").is_dir();
    if is_release(folder) {
        // The folder may be `.` or end in `..`; its real name is the release.
        return folder.canonicalize().map_err(|source| ModuleError::Read {
            path: folder.to_path_buf(),
            source,
        });
    }
    let entries = fs::read_dir(folder).map_err(|source| ModuleError::Read {
        path: folder.to_path_buf(),
        source,
    })?;
    let releases: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_release(path))
        .collect();
    match releases.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(ModuleError::NoTree(folder.to_path_buf())),
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ModuleError> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|source| ModuleError::Read {
            path: folder.clone(),
            source,
        })?;
        for entry in entries.flatten() {
            let path = entry.path();
            // Links are not followed: they may lead in circles.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
    }
    Ok(())
}

/// The bytes of a section of a little-endian 64-bit ELF file (System V ABI, chapter 4).
fn elf_section<'a>(elf: &'a [u8], wanted: &[u8]) -> Result<&'a [u8], &'static str> {
    const SHORT: &str = "it ends too early";
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is no little-endian 64-bit ELF file");
    }
    let table = number::<8>(elf, 0x28).ok_or(SHORT)?;
    let entry_size = number::<2>(elf, 0x3a).ok_or(SHORT)?;
    let count = number::<2>(elf, 0x3c).ok_or(SHORT)?;
    let names_index = number::<2>(elf, 0x3e).ok_or(SHORT)?;
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(entry_size)?)?..);
    let content = |header: &[u8]| {
        let start = number::<8>(header, 0x18)?;
        elf.get(start..start.checked_add(number::<8>(header, 0x20)?)?)
    };
    let names = header(names_index).and_then(content).ok_or(SHORT)?;
    for index in 0..count {
        let header = header(index).ok_or(SHORT)?;
        let name = number::<4>(header, 0).and_then(|at| names.get(at..)).ok_or(SHORT)?;
        if name.split(|&byte| byte == 0).next() == Some(wanted) {
            return content(header).ok_or(SHORT);
        }
    }
    Err("it has no module information")
}

/// A little-endian number of `N` bytes, at most 8.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(N)?)?;
    let mut value = [0; 8];
    value.get_mut(..N)?.copy_from_slice(field);
    usize::try_from(u64::from_le_bytes(value)).ok()
}

#[cfg(test)]
pub(crate) mod tests;
