//! The test program itself in the guest: a bundle whose initramfs also has it, with the libraries that it needs. What a
//! guest has no tool for is then a function of the test.
#![allow(dead_code, reason = "each test program uses a part of it")]
use super::run::bundle;
use coracle::bundle::cpio::Archive;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Where the guest finds the program.
const PROGRAM: &str = "inside";

/// Makes a bundle in `folder` that has this program.
pub fn bundle_with_this(folder: &Path) -> PathBuf {
    let (from, to) = (bundle(), folder.join("bundle"));
    fs::create_dir(&to).unwrap();
    for name in ["kernel", "manifest.json"] {
        symlink(from.join(name), to.join(name)).unwrap();
    }
    let mut archive = Archive::new();
    let mut add = |path: &str, file: &Path| archive.file(path, 0o755, fs::read(file).unwrap()).unwrap();
    add(PROGRAM, &std::env::current_exe().unwrap());
    for library in libraries() {
        add(library.to_str().unwrap().trim_start_matches('/'), &library);
    }
    let mut initramfs = fs::read(from.join("initramfs")).unwrap();
    // Archives that follow each other are unpacked one after the other, each from a boundary of 4 bytes.
    initramfs.resize(initramfs.len().next_multiple_of(4), 0);
    archive.write(&mut initramfs).unwrap();
    fs::write(to.join("initramfs"), initramfs).unwrap();
    to
}

/// A shell command that runs the test function `name` in the guest.
pub fn command(name: &str) -> String {
    format!("CORACLE_INSIDE=1 /{PROGRAM} --exact {name} --nocapture")
}

/// Whether this is the program in the guest.
pub fn is_inside() -> bool {
    std::env::var_os("CORACLE_INSIDE").is_some()
}

/// The shared objects that this process has mapped, by the paths at which the loader looks for them.
fn libraries() -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found: BTreeSet<PathBuf> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(PathBuf::from)
        .collect();
    // The program names its loader by another path than the one that is mapped.
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if Path::new(loader).exists() {
            found.insert(loader.into());
        }
    }
    found
}
