use super::*;
use crate::bundle::{modules::tests::made_tree, payload, store::Scratch};
use std::os::unix::fs::PermissionsExt as _;

/// A static ELF program as far as this module looks.
fn program(machine: u16, segment: u32) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64 + 56, 0);
    elf[18..20].copy_from_slice(&machine.to_le_bytes());
    elf[0x20] = 64;
    elf[0x36] = 56;
    elf[0x38] = 1;
    elf[64..68].copy_from_slice(&segment.to_le_bytes());
    elf
}

fn kernel() -> Vec<u8> {
    let mut elf = program(62, 1);
    elf.extend([9; 5000]);
    elf
}

fn recipe(root: &Path) -> Recipe {
    let tree = made_tree(root);
    let list = MODULES.iter().filter(|name| **name != "virtio_blk");
    let built_in: Vec<String> = list.map(|name| format!("kernel/x/{name}.ko")).collect();
    let known = fs::read_to_string(tree.join("modules.builtin")).unwrap();
    fs::write(tree.join("modules.builtin"), known + &built_in.join("\n")).unwrap();
    fs::write(
        root.join("vmlinuz"),
        payload::tests::bzimage(&payload::tests::lz4(&kernel())),
    )
    .unwrap();
    fs::write(root.join("guest"), program(62, 1)).unwrap();
    fs::write(root.join("tool"), "#!/bin/sh\n").unwrap();
    Recipe {
        arch: Architecture::X86_64,
        kernel: KernelFrom::Files {
            kernel: root.join("vmlinuz"),
            modules: Some(tree),
        },
        guest: root.join("guest"),
        busybox: false,
        modules: Vec::new(),
        keep_signatures: false,
        added: vec![Added {
            file: root.join("tool"),
            path: "opt/tool".into(),
        }],
        cache: root.join("cache"),
    }
}

fn build(recipe: &Recipe, folder: &Path) -> Built {
    recipe.build(folder, &|_| {}).unwrap()
}

#[test]
fn a_bundle_has_its_files_and_a_manifest_that_fits_them() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("bundles/x86_64");
    let built = build(&recipe(scratch.path()), &folder);
    assert!(built.changed);
    assert_eq!(built.manifest, Manifest::read(&folder).unwrap());
    assert_eq!(built.manifest.modules, ["crc_x", "virtio_ring", "virtio", "virtio_blk"]);
    assert_eq!(built.manifest.absent_modules, ["evdev", "pvpanic_mmio"]);
    assert_eq!(built.manifest.kernel_version.as_deref(), Some("6.1.0-test"));
    assert_eq!(fs::read(folder.join("kernel")).unwrap(), kernel());
    assert_eq!(
        built.manifest.files.keys().collect::<Vec<_>>(),
        ["bzImage", "initramfs", "kernel"]
    );
    assert!(built.manifest.changed_files(&folder).unwrap().is_empty());
    fs::write(folder.join("initramfs"), "other").unwrap();
    assert_eq!(built.manifest.changed_files(&folder).unwrap(), ["initramfs"]);
}

#[test]
fn nothing_is_rebuilt_until_an_input_changes() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("bundles/x86_64");
    let recipe = recipe(scratch.path());
    let first = build(&recipe, &folder);
    assert!(!build(&recipe, &folder).changed);
    // Same content under another time: read again, but the bundle stays.
    fs::write(scratch.path().join("tool"), "#!/bin/sh\n").unwrap();
    assert!(!build(&recipe, &folder).changed);
    fs::write(scratch.path().join("tool"), "#!/bin/cat\n").unwrap();
    let second = build(&recipe, &folder);
    assert!(second.changed);
    assert_ne!(first.manifest.files["initramfs"], second.manifest.files["initramfs"]);
    assert_eq!(first.manifest.files["kernel"], second.manifest.files["kernel"]);
    fs::set_permissions(scratch.path().join("tool"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(build(&recipe, &folder).changed, "the mode is part of the initramfs");
    fs::remove_file(folder.join("kernel")).unwrap();
    assert!(build(&recipe, &folder).changed, "a missing file is made again");
    assert!(folder.join("kernel").is_file());
}

#[test]
fn a_failed_build_leaves_the_old_bundle() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("bundles/x86_64");
    let recipe = recipe(scratch.path());
    let old = build(&recipe, &folder).manifest;
    let mut image = payload::tests::bzimage(&payload::tests::lz4(&kernel()));
    image.truncate(image.len() - 100);
    fs::write(scratch.path().join("vmlinuz"), image).unwrap();
    assert!(matches!(recipe.build(&folder, &|_| {}), Err(BundleError::Payload(_))));
    assert_eq!(Manifest::read(&folder).unwrap(), old);
    assert!(old.changed_files(&folder).unwrap().is_empty());
}

#[test]
fn concurrent_builds_end_with_one_whole_bundle() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("bundles/x86_64");
    let recipe = recipe(scratch.path());
    let built: Vec<bool> = std::thread::scope(|threads| {
        let runs: Vec<_> = (0..4)
            .map(|_| threads.spawn(|| build(&recipe, &folder).changed))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(built.iter().filter(|changed| **changed).count(), 1, "{built:?}");
    assert!(
        Manifest::read(&folder)
            .unwrap()
            .changed_files(&folder)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_guest_program_that_cannot_start_is_refused() {
    let scratch = Scratch::new();
    let recipe = recipe(scratch.path());
    let folder = scratch.path().join("bundles/x86_64");
    for (bytes, wrong) in [
        (program(62, 3), "dynamically"),
        (program(183, 1), "architecture"),
        (b"#!/bin/sh".to_vec(), "architecture"),
    ] {
        fs::write(&recipe.guest, bytes).unwrap();
        let text = recipe.build(&folder, &|_| {}).unwrap_err().to_string();
        assert!(text.contains(wrong) && text.contains("make guest"), "{text}");
    }
    fs::remove_file(&recipe.guest).unwrap();
    assert!(matches!(recipe.build(&folder, &|_| {}), Err(BundleError::Guest { .. })));
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let scratch = Scratch::new();
    let recipe = recipe(scratch.path());
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("letter"), "dear").unwrap();
    assert!(matches!(recipe.build(&home, &|_| {}), Err(BundleError::Occupied(_))));
    assert!(home.join("letter").is_file());
}
