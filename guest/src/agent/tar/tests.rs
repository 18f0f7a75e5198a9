use super::*;
use rustix::fs::Mode;
use std::{
    fs,
    os::fd::OwnedFd,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("coracle-tar-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> OwnedFd {
        rustix::fs::open(
            &self.0,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tree with everything that needs no privilege.
fn plant(at: &Path) {
    let long = at.join("n".repeat(120)).join("m".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), vec![7; 70_000]).unwrap();
    fs::write(at.join("a"), "hello").unwrap();
    fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(at.join("a"), at.join("z")).unwrap();
    symlink("t".repeat(300), at.join("link")).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
}

fn check(at: &Path) {
    let long = at.join("n".repeat(120)).join("m".repeat(120));
    assert_eq!(fs::read(long.join("deep")).unwrap(), vec![7; 70_000]);
    assert_eq!(fs::read(at.join("a")).unwrap(), b"hello");
    let [a, z] = ["a", "z"].map(|name| fs::metadata(at.join(name)).unwrap());
    assert_eq!((a.mode() & 0o7777, a.ino(), a.nlink()), (0o640, z.ino(), 2));
    assert_eq!(fs::read_link(at.join("link")).unwrap(), PathBuf::from("t".repeat(300)));
    assert!(at.join("empty").is_dir());
}

/// What may be owned by whoever runs the test.
fn unpack_here(archive: &[u8], to: &Folder) -> io::Result<()> {
    read::unpack(&mut &*archive, to.open(), true)
}

#[test]
fn a_tree_survives_and_tar_understands_it() {
    let (from, to, theirs) = (Folder::new("from"), Folder::new("to"), Folder::new("theirs"));
    plant(&from.0);
    let mut archive = Vec::new();
    write::Writer::new(&mut archive).tree(&from.open(), "").unwrap();
    unpack_here(&archive, &to).unwrap();
    check(&to.0);
    let mut tar = Command::new("tar")
        .args(["xf", "-", "-C"])
        .arg(&theirs.0)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(tar.wait().unwrap().success());
    check(&theirs.0);
}

#[test]
fn archives_of_tar_are_understood_in_each_format() {
    let version = Command::new("tar").arg("--version").output().map(|tar| tar.stdout);
    if !version.is_ok_and(|version| version.starts_with(b"tar (GNU tar)")) {
        eprintln!("skipped: the tar of this machine knows one format only");
        return;
    }
    let from = Folder::new("formats");
    plant(&from.0);
    for format in ["gnu", "pax"] {
        let to = Folder::new(format);
        let tar = Command::new("tar")
            .args(["c", &format!("--format={format}"), "-C"])
            .arg(&from.0)
            .arg(".")
            .output()
            .unwrap();
        unpack_here(&tar.stdout, &to).unwrap();
        check(&to.0);
    }
}

#[test]
fn a_cut_archive_is_refused_and_garbage_does_not_panic() {
    let from = Folder::new("cut");
    fs::write(from.0.join("a"), [b'x'; 2000]).unwrap();
    let mut archive = Vec::new();
    write::Writer::new(&mut archive).tree(&from.open(), "").unwrap();
    let to = Folder::new("cut-to");
    for end in [BLOCK * 2 + 1, BLOCK * 3, archive.len() - 3 * BLOCK] {
        assert!(unpack_here(&archive[..end], &to).is_err(), "{end}");
    }
    let mut state = 1_u32;
    for _ in 0..2000 {
        let mut block = [0; BLOCK];
        for byte in &mut block {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        assert!(header::parse(&block).is_err());
    }
}

#[test]
fn pax_records_are_read_and_broken_ones_refused() {
    let block = header::Header {
        kind: header::Kind::File,
        name: b"a".to_vec(),
        target: vec![],
        mode: 0o600,
        uid: 0,
        gid: 0,
        size: 1,
        modified: 2,
        device: (0, 0),
    };
    let mut header = block.clone();
    header::apply(
        b"11 path=bc\n14 size=12345\n19 mtime=12.345678\n9 odd=\xff\n",
        &mut header,
    )
    .unwrap_err();
    header::apply(b"11 path=bc\n14 size=12345\n18 mtime=12.34567\n", &mut header).unwrap();
    assert_eq!(
        (header.name.as_slice(), header.size, header.modified),
        (&b"bc"[..], 12345, 12)
    );
    for wrong in [
        "5",
        "5 ab",
        "9999 a=b\n",
        "0 a=b\n",
        "6 a=bc",
        "-6 a=b\n",
        "12 size=-123\n",
    ] {
        assert!(
            header::apply(wrong.as_bytes(), &mut block.clone()).is_err(),
            "{wrong:?}"
        );
    }
    let huge = header::Header { size: 1 << 40, ..block };
    let encoded = huge.encode();
    assert_eq!(encoded.len(), 3 * BLOCK);
    assert!(encoded[BLOCK..].starts_with(b"22 size=1099511627776\n"));
}
