use super::super::{
    raw::{Access, Raw},
    testing::TempFile,
};

fn open(file: &TempFile, read_only: bool) -> Result<Raw, String> {
    let access = Access {
        read_only,
        direct: false,
    };
    Raw::open(file.path(), access).map_err(|error| error.to_string())
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let file = TempFile::pattern(4096, 0);
    let readers = (open(&file, true).unwrap(), open(&file, true).unwrap());
    let refused = open(&file, false).unwrap_err();
    let path = file.path().display();
    assert_eq!(
        refused,
        format!(
            "the disk {path} is in use by another disk of this process, and a disk that is written to has one user; \
             end that use, share it with is_read_only in all places, or make a copy"
        )
    );
    drop(readers);
    let writer = open(&file, false).unwrap();
    assert!(
        open(&file, true)
            .unwrap_err()
            .contains("what is written to cannot be read by others")
    );
    assert!(open(&file, false).is_err());
    drop(writer);
    open(&file, true).unwrap();
}

#[test]
fn the_other_process_is_named() {
    if std::env::var_os("CORACLE_EMULATED_HOST").is_some() {
        return; // its root has no such program
    }
    let file = TempFile::pattern(4096, 0);
    let mut child = std::process::Command::new("flock")
        .arg(file.path())
        .args(["sh", "-c", "echo; read line"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let refused = open(&file, true).unwrap_err();
    drop(child.stdin.take());
    child.wait().unwrap();
    let who = format!("process {} (flock)", child.id());
    assert!(refused.contains(&who), "{refused}");
}
