//! The initramfs of a bundle: PID 1, the modules in load order, busybox, and what the user adds.
use super::{
    busybox,
    cpio::{Archive, CpioError},
};

/// Changes whenever [`Contents::lay_out`] does, so that an older bundle is seen to be made from other inputs.
pub(crate) const LAYOUT: &str = "3";

/// One file that goes in, with its content.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Where it goes, from the root.
    pub(crate) path: String,
    /// Permission bits.
    pub(crate) permissions: u32,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// All that an initramfs is made of.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The program that becomes PID 1.
    pub(crate) init: Vec<u8>,
    /// Name and bytes of each module, in load order.
    pub(crate) modules: Vec<(String, Vec<u8>)>,
    /// A static busybox.
    pub(crate) busybox: Option<Vec<u8>>,
    /// What the user adds; the last to come, so it replaces what has the same path.
    pub(crate) added: Vec<Piece>,
}

impl Contents {
    /// Lays the tree out. PID 1 loads `/modules/*` in the order of their names.
    pub(crate) fn lay_out(self) -> Result<Archive, CpioError> {
        let mut archive = Archive::new();
        for folder in [
            "dev", "etc", "mnt", "newroot", "proc", "root", "run", "sys", "tmp", "var",
        ] {
            archive.directory(folder, if folder == "tmp" { 0o1777 } else { 0o755 })?;
        }
        // The kernel opens this for PID 1 before anything is mounted. There may be no console yet but one whose driver is a
        // module, of which the kernel would warn: so it gets the null device, and PID 1 takes the console when it is there.
        // A link, for a device node would not replace the one that every kernel has built in.
        archive.symlink("dev/console", "null")?;
        archive.character_device("dev/null", 0o666, 1, 3)?;
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n".to_vec())?;
        archive.file("etc/group", 0o644, b"root:x:0:\n".to_vec())?;
        archive.file("init", 0o755, self.init)?;
        for (number, (name, bytes)) in self.modules.into_iter().enumerate() {
            archive.file(&format!("modules/{number:03}-{name}.ko"), 0o644, bytes)?;
        }
        if let Some(program) = self.busybox {
            for name in busybox::applets(&program) {
                archive.symlink(&format!("bin/{name}"), "busybox")?;
            }
            archive.file("bin/busybox", 0o755, program)?;
            archive.symlink("sbin", "bin")?;
        }
        for piece in self.added {
            archive.file(&piece.path, piece.permissions, piece.bytes)?;
        }
        Ok(archive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_init_the_modules_in_order_the_applets_and_what_was_added() {
        let contents = Contents {
            init: b"init".to_vec(),
            modules: vec![("zeta".into(), b"1".to_vec()), ("alpha".into(), b"2".to_vec())],
            busybox: Some(b"\x7fELF\0[\0[[\0sh\0\0".to_vec()),
            added: vec![Piece {
                path: "/opt/tool".into(),
                permissions: 0o755,
                bytes: b"tool".to_vec(),
            }],
        };
        let archive = contents.lay_out().unwrap();
        for path in [
            "init",
            "modules/000-zeta.ko",
            "modules/001-alpha.ko",
            "bin/sh",
            "dev/console",
            "opt/tool",
        ] {
            assert!(archive.contains(path), "{path}");
        }
    }
}
