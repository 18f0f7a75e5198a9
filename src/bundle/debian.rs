//! Debian packages as a source of files: resolved by apt, downloaded, unpacked into a cache, never installed.
//!
//! Runs `apt-cache`, `apt-get download` and `dpkg-deb`, on the caller's thread. A cached package is used without any
//! of them. Never changes the machine's packages, and never prints: long steps are told to the caller's `progress`.
use super::store::{self, Lock, StoreError};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::UNIX_EPOCH,
};

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A program of Debian's package tools is missing.
    #[error(
        "cannot run `{program}`, which fetches Debian packages: use a Debian system, or give a kernel and its modules with --kernel and --modules"
    )]
    Tool {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// apt does not know the architecture.
    #[error(
        "packages for {architecture} are not enabled here: run `dpkg --add-architecture {architecture}` and `apt-get update` as root"
    )]
    ForeignArchitecture {
        /// Debian's name of the architecture.
        architecture: String,
    },
    /// apt's lists do not have the package.
    #[error("apt knows no package {package}: run `apt-get update` as root, and see that /etc/apt has Debian's sources")]
    Unknown {
        /// Name and architecture.
        package: String,
    },
    /// A meta package points at no package of the wanted kind.
    #[error("the package {package} depends on no package whose name begins with `{prefix}`")]
    NoDependency {
        /// The meta package.
        package: String,
        /// What was looked for.
        prefix: String,
    },
    /// The download failed.
    #[error(
        "apt-get could not download {package}: {output}; if the version is gone from the archive, run `apt-get update` as root"
    )]
    Download {
        /// Name, architecture and version.
        package: String,
        /// The last lines that apt-get printed.
        output: String,
    },
    /// The package cannot be unpacked.
    #[error("dpkg-deb could not unpack {package}: {output}; remove the file to download it again")]
    Unpack {
        /// The file.
        package: PathBuf,
        /// The last lines that dpkg-deb printed.
        output: String,
    },
    /// The cache cannot be used.
    #[error("the package cache cannot be used")]
    Store(#[from] StoreError),
}

/// What apt knows of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The package's name.
    pub name: String,
    /// Debian's name of the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// Debian's version, such as `6.1.192-2`.
    pub version: String,
    /// Names of the packages that it depends on, without versions; of alternatives the first.
    pub depends: Vec<String>,
}

/// A package that lies unpacked in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name, architecture and version.
    pub record: Record,
    /// The folder that stands for `/`.
    pub tree: PathBuf,
}

/// A resolved record and the state of apt's lists that it was made from.
#[derive(Debug, Serialize, Deserialize)]
struct Resolved {
    lists: u128,
    record: Record,
}

impl Package {
    /// The newest version of package `name` for Debian's architecture `architecture` that apt's lists offer, unpacked
    /// below `cache`. Nothing is run when the lists are unchanged and the package is in the cache.
    pub fn fetch(name: &str, architecture: &str, cache: &Path, progress: &dyn Fn(&str)) -> Result<Self, DebianError> {
        let record = Record::resolve(name, architecture, cache)?;
        Self::fetch_record(record, cache, progress)
    }

    /// The package that a meta package depends on: the first whose name begins with `prefix`.
    pub fn fetch_dependency(
        (meta, prefix): (&str, &str),
        architecture: &str,
        cache: &Path,
        progress: &dyn Fn(&str),
    ) -> Result<Self, DebianError> {
        let record = Record::resolve(meta, architecture, cache)?;
        let name = record.depends.iter().find(|name| name.starts_with(prefix));
        let name = name.ok_or_else(|| DebianError::NoDependency {
            package: meta.to_string(),
            prefix: prefix.to_string(),
        })?;
        Self::fetch(name, architecture, cache, progress)
    }

    fn fetch_record(record: Record, cache: &Path, progress: &dyn Fn(&str)) -> Result<Self, DebianError> {
        let folder = cache.join(record.folder());
        let tree = folder.join("tree");
        if tree.is_dir() {
            return Ok(Self { record, tree });
        }
        let _lock = Lock::take(cache, progress)?;
        if tree.is_dir() {
            return Ok(Self { record, tree });
        }
        let made = store::replace_folder(&folder, |new| {
            progress(&format!(
                "downloading Debian's {} {} for {}",
                record.name, record.version, record.architecture
            ));
            let package = download(&record, new)?;
            unpack(&package, &new.join("tree"))?;
            // Only the tree is needed from here on.
            fs::remove_file(&package).map_err(|e| StoreError::io("remove", &package, e))?;
            Ok(())
        });
        made.map(|()| Self { record, tree })
    }
}

impl Record {
    /// Asks apt for the package, or the cache if apt's lists are as they were or gone.
    pub fn resolve(name: &str, architecture: &str, cache: &Path) -> Result<Self, DebianError> {
        let remembered = cache.join(format!("{name}_{architecture}.json"));
        let lists = state_of_lists();
        let known = fs::read(&remembered).ok();
        let known = known.and_then(|bytes| serde_json::from_slice::<Resolved>(&bytes).ok());
        if let Some(known) = &known
            && known.lists == lists
        {
            return Ok(known.record.clone());
        }
        match (ask_apt(name, architecture), known) {
            (Ok(record), _) => {
                let resolved = Resolved { lists, record };
                let _lock = Lock::take(cache, &|_| {})?;
                store::replace_file(&remembered, &store::json(&resolved))?;
                Ok(resolved.record)
            }
            // apt's lists were removed since, as images do to be small: what was known then still serves.
            (Err(DebianError::Unknown { .. } | DebianError::Tool { .. }), Some(known)) => Ok(known.record),
            (Err(error), _) => Err(error),
        }
    }

    /// Name, architecture and version as one file name.
    fn folder(&self) -> String {
        format!(
            "{}_{}_{}",
            self.name,
            self.version.replace(['/', ':'], "%"),
            self.architecture
        )
    }
}

/// Time of the last change of apt's lists in nanoseconds; 0 if there are none.
fn state_of_lists() -> u128 {
    let changed = fs::metadata("/var/lib/apt/lists").and_then(|meta| meta.modified());
    let since = changed.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos())
}

fn ask_apt(name: &str, architecture: &str) -> Result<Record, DebianError> {
    let package = format!("{name}:{architecture}");
    let output = run(
        "apt-cache",
        Command::new("apt-cache").args(["show", "--no-all-versions", &package]),
    )?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(record) = parse_record(&text, name, architecture).filter(|_| output.status.success()) {
        return Ok(record);
    }
    if is_enabled(architecture)? {
        Err(DebianError::Unknown { package })
    } else {
        Err(DebianError::ForeignArchitecture {
            architecture: architecture.to_string(),
        })
    }
}

fn is_enabled(architecture: &str) -> Result<bool, DebianError> {
    for option in ["--print-architecture", "--print-foreign-architectures"] {
        let output = run("dpkg", Command::new("dpkg").arg(option))?;
        if String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| line == architecture)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the first stanza of `apt-cache show`.
fn parse_record(text: &str, name: &str, architecture: &str) -> Option<Record> {
    let stanza = text.split("\n\n").next()?;
    let field = |key: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    };
    let depends = field("Depends").unwrap_or_default();
    let first_word = |dependency: &str| {
        dependency
            .split([' ', '(', '|', ':'])
            .find(|word| !word.is_empty())
            .map(str::to_string)
    };
    Some(Record {
        name: name.to_string(),
        architecture: architecture.to_string(),
        version: field("Version")?.trim().to_string(),
        depends: depends.split(',').filter_map(first_word).collect(),
    })
}

/// Downloads the package into `folder`; apt checks its digest against the signed lists.
fn download(record: &Record, folder: &Path) -> Result<PathBuf, DebianError> {
    let package = format!("{}:{}={}", record.name, record.architecture, record.version);
    let mut command = Command::new("apt-get");
    // As root, apt would change to a user that may not write here.
    command.args(["-q", "-o", "APT::Sandbox::User=root", "download", &package]);
    let output = run("apt-get", command.current_dir(folder))?;
    let files = fs::read_dir(folder).map_err(|e| StoreError::io("read", folder, e))?;
    let mut files = files.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    match file {
        Some(file) if output.status.success() => Ok(file),
        _ => Err(DebianError::Download {
            package,
            output: last_lines(&output),
        }),
    }
}

fn unpack(package: &Path, tree: &Path) -> Result<(), DebianError> {
    let output = run(
        "dpkg-deb",
        Command::new("dpkg-deb").arg("--extract").arg(package).arg(tree),
    )?;
    if output.status.success() {
        return Ok(());
    }
    Err(DebianError::Unpack {
        package: package.to_path_buf(),
        output: last_lines(&output),
    })
}

fn run(program: &'static str, command: &mut Command) -> Result<Output, DebianError> {
    let output = command.env("LC_ALL", "C").stdin(std::process::Stdio::null()).output();
    output.map_err(|source| DebianError::Tool { program, source })
}

fn last_lines(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines
        .get(lines.len().saturating_sub(3)..)
        .unwrap_or_default()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_from_apts_first_stanza() {
        let text = "Package: meta\nVersion: 6.1.192-2\nDepends: linux-image-6.1.0-56 (= 6.1.192-2), kmod | busybox, libc6:any (>> 2)\n\nPackage: meta\nVersion: 5\n";
        let record = parse_record(text, "meta", "amd64").unwrap();
        assert_eq!(record.version, "6.1.192-2");
        assert_eq!(record.depends, ["linux-image-6.1.0-56", "kmod", "libc6"]);
        assert_eq!(record.folder(), "meta_6.1.192-2_amd64");
        assert!(parse_record("", "meta", "amd64").is_none());
    }

    #[test]
    fn a_package_in_the_cache_is_used_without_apt() {
        let cache = store::Scratch::new();
        let record = Record {
            name: "no-such-package".into(),
            architecture: "amd64".into(),
            version: "1:2".into(),
            depends: vec!["other".into()],
        };
        let resolved = Resolved {
            lists: 1,
            record: record.clone(),
        };
        store::replace_file(
            &cache.path().join("no-such-package_amd64.json"),
            &store::json(&resolved),
        )
        .unwrap();
        let tree = cache.path().join("no-such-package_1%2_amd64/tree");
        fs::create_dir_all(&tree).unwrap();
        let package = Package::fetch("no-such-package", "amd64", cache.path(), &|_| {}).unwrap();
        assert_eq!(package, Package { record, tree });
    }

    #[test]
    fn what_apt_does_not_have_is_named_with_the_remedy() {
        let cache = store::Scratch::new();
        let fetch = |architecture| Package::fetch("no-such-package", architecture, cache.path(), &|_| {}).unwrap_err();
        for (error, remedy) in [(fetch("m68k"), "`dpkg --add-architecture m68k` and `apt-get update`")] {
            match error {
                DebianError::Tool { program, .. } => eprintln!("skipped: there is no `{program}` program here"),
                error => assert!(error.to_string().contains(remedy), "{error}"),
            }
        }
        let native = Command::new("dpkg").arg("--print-architecture").output();
        let Ok(native) = native.map(|output| String::from_utf8(output.stdout).unwrap()) else {
            return;
        };
        let native = native.trim();
        match fetch(native) {
            DebianError::Unknown { package } => assert_eq!(package, format!("no-such-package:{native}")),
            error => panic!("{error}"),
        }
    }
}
