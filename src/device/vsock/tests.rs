#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use std::os::unix::net::UnixStream;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("coracle-vsock-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Result<Vsock, DeviceError> {
        Vsock::open(&VsockSpec {
            guest_cid: 3,
            uds_path: self.0.join("v"),
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn the_socket_lasts_as_long_as_the_vm() {
    let folder = Folder::new("lasts");
    let vsock = folder.open().unwrap();
    UnixStream::connect(&vsock.path).unwrap();
    drop(vsock);
    assert!(!folder.0.join("v").exists());
}

#[test]
fn a_socket_that_is_served_is_left_alone() {
    let folder = Folder::new("served");
    let first = folder.open().unwrap();
    let message = folder.open().map(drop).unwrap_err().to_string();
    assert!(message.contains("another program serves"), "{message}");
    UnixStream::connect(&first.path).unwrap();
}

#[test]
fn a_socket_that_was_left_behind_is_replaced() {
    let folder = Folder::new("left");
    drop(UnixListener::bind(folder.0.join("v")).unwrap());
    let vsock = folder.open().unwrap();
    UnixStream::connect(&vsock.path).unwrap();
}

#[test]
fn a_file_is_no_socket() {
    let folder = Folder::new("file");
    fs::write(folder.0.join("v"), "precious").unwrap();
    let message = folder.open().map(drop).unwrap_err().to_string();
    assert!(message.contains("no socket"), "{message}");
    assert_eq!(fs::read(folder.0.join("v")).unwrap(), b"precious");
}

#[test]
fn a_folder_that_is_missing_is_named() {
    let spec = VsockSpec {
        guest_cid: 3,
        uds_path: "/nowhere/v".into(),
    };
    let message = Vsock::open(&spec).map(drop).unwrap_err().to_string();
    assert!(message.contains("/nowhere/v"), "{message}");
}

#[test]
fn what_replaced_the_socket_is_not_removed() {
    let folder = Folder::new("replaced");
    let vsock = folder.open().unwrap();
    let path = folder.0.join("v");
    fs::rename(&path, folder.0.join("old")).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(vsock);
    assert!(path.exists());
    drop(other);
}

#[test]
fn the_guest_s_ports_are_sockets_beside_it() {
    let folder = Folder::new("ports");
    let vsock = folder.open().unwrap();
    assert_eq!(dial(&vsock.path, 52).unwrap_err().kind(), io::ErrorKind::NotFound);
    let server = UnixListener::bind(folder.0.join("v_52")).unwrap();
    let guest = UnixStream::from(dial(&vsock.path, 52).unwrap());
    server.accept().unwrap();
    drop(guest);
}
