use super::*;
use std::convert::Infallible;

struct Scratch(PathBuf);
impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("coracle-tree-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_string()
    }
}
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pieces(root: &str) -> Vec<Piece> {
    let mut all = Vec::new();
    send(Path::new(root), &mut |piece| {
        all.push(piece);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    all.push(Piece::End);
    all
}

#[test]
fn a_tree_arrives_with_modes_times_and_links() {
    let dir = Scratch::new("roundtrip");
    fs::create_dir_all(dir.at("src/inner")).unwrap();
    let big: Vec<u8> = (0..CHUNK * 2 + 17).map(|i| i as u8).collect();
    fs::write(dir.at("src/inner/big"), &big).unwrap();
    fs::write(dir.at("src/run"), "#!").unwrap();
    fs::set_permissions(dir.at("src/run"), Permissions::from_mode(0o755)).unwrap();
    symlink("inner/big", dir.at("src/link")).unwrap();
    fs::set_permissions(dir.at("src/inner"), Permissions::from_mode(0o555)).unwrap();
    let mut to = Receiver::new(&dir.at("dst/"), "src").unwrap();
    for piece in pieces(&dir.at("src")) {
        to.take(piece).unwrap();
    }
    assert_eq!(fs::read(dir.at("dst/src/inner/big")).unwrap(), big);
    assert_eq!(fs::metadata(dir.at("dst/src/run")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(dir.at("dst/src/inner")).unwrap().mode() & 0o777, 0o555);
    assert_eq!(fs::read_link(dir.at("dst/src/link")).unwrap(), Path::new("inner/big"));
    let time = |p: &str| fs::metadata(dir.at(p)).unwrap().modified().unwrap();
    assert_eq!(time("src/run"), time("dst/src/run"));
    fs::set_permissions(dir.at("src/inner"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.at("dst/src/inner"), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_path_that_leads_out_of_the_tree_is_refused() {
    let dir = Scratch::new("escape");
    let mut to = Receiver::new(&dir.at("dst"), "x").unwrap();
    to.take(Piece::Folder {
        path: String::new(),
        mode: 0o755,
    })
    .unwrap();
    to.take(Piece::Link {
        path: "out".into(),
        target: "/tmp".into(),
    })
    .unwrap();
    for path in ["../evil", "/etc/evil", "a/../../evil", "out/evil"] {
        let file = Piece::File {
            path: path.into(),
            mode: 0o644,
            modified: 0,
        };
        assert!(matches!(to.take(file), Err(TreeError::Broken(_))), "{path}");
    }
}

#[test]
fn an_unfinished_file_leaves_the_old_one_and_nothing_else() {
    let dir = Scratch::new("atomic");
    fs::write(dir.at("f"), "old").unwrap();
    let mut to = Receiver::new(&dir.at("f"), "f").unwrap();
    to.take(Piece::File {
        path: String::new(),
        mode: 0o644,
        modified: 0,
    })
    .unwrap();
    to.take(Piece::Data(b"new".to_vec())).unwrap();
    drop(to);
    assert_eq!(fs::read(dir.at("f")).unwrap(), b"old");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
}
