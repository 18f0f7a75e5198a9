use super::*;
use crate::bundle::store::Scratch;

/// A 64-bit ELF file with the one section `.modinfo`, as far as this module reads it.
pub(crate) fn module(info: &[&str]) -> Vec<u8> {
    let mut content: Vec<u8> = info.iter().flat_map(|text| [text.as_bytes(), &[0]].concat()).collect();
    let names_at = 64 + content.len();
    let names = b"\0.modinfo\0.shstrtab\0";
    content.extend_from_slice(names);
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    let table = 64 + content.len();
    elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    elf[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
    elf.extend(content);
    for (name, start, size) in [(0u32, 0, 0), (1, 64, names_at - 64), (10, names_at, names.len())] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend(header);
    }
    elf
}

/// Makes `lib/modules/6.1.0-test` below `root`.
pub(crate) fn made_tree(root: &Path) -> PathBuf {
    let tree = root.join("lib/modules/6.1.0-test");
    let put = |path: &str, bytes: Vec<u8>| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put(
        "kernel/drivers/virtio/virtio.ko",
        module(&["license=GPL", "depends=virtio_ring"]),
    );
    put("kernel/drivers/virtio/virtio_ring.ko", module(&["depends="]));
    put(
        "kernel/drivers/block/virtio-blk.ko",
        module(&["depends=virtio_ring,virtio", "softdep=pre: crc-x no-such post: late"]),
    );
    put("kernel/lib/crc-x.ko", module(&["depends=builtin-thing"]));
    put("kernel/lib/late.ko", module(&["depends="]));
    put("kernel/odd/a.ko", module(&["depends=b"]));
    put("kernel/odd/b.ko", module(&["depends=a"]));
    put("kernel/odd/lost.ko", module(&["depends=gone"]));
    put("kernel/odd/text.ko", b"hello".to_vec());
    put(
        "modules.builtin",
        b"kernel/drivers/acpi/button.ko\nkernel/lib/builtin-thing.ko\n".to_vec(),
    );
    tree
}

fn names(modules: &[Module]) -> Vec<&str> {
    modules.iter().map(|module| module.name.as_str()).collect()
}

#[test]
fn dependencies_come_first_and_once_and_built_in_ones_need_no_file() {
    let scratch = Scratch::new();
    let tree = Tree::open(&made_tree(scratch.path())).unwrap();
    assert_eq!(tree.release(), "6.1.0-test");
    let modules = tree.resolve(&["button", "virtio_blk", "virtio"]).unwrap();
    assert_eq!(names(&modules), ["crc_x", "virtio_ring", "virtio", "virtio_blk"]);
    assert!(modules[3].path.ends_with("kernel/drivers/block/virtio-blk.ko"));
    assert!(tree.has("virtio-blk") && tree.has("button") && !tree.has("kvm"));
}

#[test]
fn the_folder_above_a_single_release_does_as_well() {
    let scratch = Scratch::new();
    let release = made_tree(scratch.path());
    assert_eq!(Tree::open(release.parent().unwrap()).unwrap().release(), "6.1.0-test");
    assert!(matches!(Tree::open(scratch.path()), Err(ModuleError::NoTree(_))));
}

#[test]
fn a_module_that_the_kernel_lacks_is_named_also_when_another_needs_it() {
    let scratch = Scratch::new();
    let tree = Tree::open(&made_tree(scratch.path())).unwrap();
    for (wanted, missing) in [("kvm-amd", "kvm_amd"), ("lost", "gone")] {
        let error = tree.resolve(&[wanted]).unwrap_err();
        assert!(
            matches!(&error, ModuleError::Missing { name, .. } if name == missing),
            "{error}"
        );
        assert!(error.to_string().contains("6.1.0-test"));
    }
}

#[test]
fn broken_trees_and_files_end_as_errors() {
    let scratch = Scratch::new();
    let tree = Tree::open(&made_tree(scratch.path())).unwrap();
    assert!(matches!(tree.resolve(&["a"]), Err(ModuleError::Circle(_))));
    assert!(matches!(tree.resolve(&["text"]), Err(ModuleError::NoModule { .. })));
    let whole = module(&["depends=x"]);
    // The last 24 bytes are fields of the last header that nobody needs.
    for length in 0..whole.len() - 24 {
        assert!(elf_section(&whole[..length], b".modinfo").is_err(), "{length}");
    }
}
