use super::*;
use std::process::{Command, Stdio};

fn sample() -> Archive {
    let mut archive = Archive::new();
    archive.file("bin/busybox", 0o755, b"program".to_vec()).unwrap();
    archive.symlink("/bin/sh", "busybox").unwrap();
    archive.directory("tmp/", 0o1777).unwrap();
    archive.character_device("dev/console", 0o600, 5, 1).unwrap();
    archive.file("init", 0o755, vec![7; 1001]).unwrap();
    archive
}

#[test]
fn the_same_tree_gives_the_same_bytes_in_whole_blocks() {
    let bytes = sample().to_bytes();
    assert_eq!(bytes, sample().to_bytes());
    assert_eq!(bytes.len() % 512, 0);
    assert!(bytes.starts_with(b"070701"));
    let text = String::from_utf8_lossy(&bytes);
    let at = |name: &str| text.find(&format!("\0{name}\0").replacen('\0', "", 1)).unwrap();
    assert!(at("bin") < at("bin/busybox") && at("bin/busybox") < at("dev") && at("init") < at("TRAILER!!!"));
}

#[test]
fn the_cpio_program_lists_the_archive_as_it_was_made() {
    let listing = Command::new("cpio")
        .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = listing else {
        eprintln!("skipped: there is no `cpio` program here");
        return;
    };
    child.stdin.take().unwrap().write_all(&sample().to_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 bin",
            "-rwxr-xr-x 1 0 0 7 Jan 1 1970 bin/busybox",
            "lrwxrwxrwx 1 0 0 7 Jan 1 1970 bin/sh -> busybox",
            "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
            "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
            "-rwxr-xr-x 1 0 0 1001 Jan 1 1970 init",
            "drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
        ]
    );
}

#[test]
fn paths_stay_below_the_root() {
    for path in ["", "/", "..", "a/../b", "a//b", "./a", "a\0b"] {
        assert_eq!(
            Archive::new().file(path, 0o644, Vec::new()),
            Err(CpioError::Path(path.to_string())),
            "{path:?}"
        );
    }
}

#[test]
fn a_file_is_no_directory_and_a_full_directory_no_file() {
    let mut archive = sample();
    assert!(matches!(
        archive.file("init/x", 0o644, Vec::new()),
        Err(CpioError::Parent { .. })
    ));
    assert_eq!(
        archive.file("bin", 0o644, Vec::new()),
        Err(CpioError::Occupied("bin".into()))
    );
    archive.file("init", 0o700, b"later".to_vec()).unwrap();
    assert!(archive.contains("/init") && !archive.contains("bin/cat"));
}
