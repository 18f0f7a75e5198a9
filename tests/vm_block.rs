//! Disks in a stock guest: a file system on every kind of disk, checked by e2fsck and checksums; storage that fails; limits;
//! a driver that comes and goes under load.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
mod support {
    pub mod run;
    pub mod tiny;
}
use flate2::read::GzDecoder;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    run::{Run, bundle},
    tiny::Folder,
};

/// An empty ext4 of 24 MiB with a journal.
fn image() -> Vec<u8> {
    let mut bytes = Vec::new();
    let packed: &[u8] = include_bytes!("data/ext4.img.gz");
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    bytes
}

/// What every script begins with: finds a disk by its serial number, and a checker on the disk `tools`.
const COMMON: &str = r#"
dev() { for d in /sys/block/vd*; do [ "$(cat $d/serial)" = $1 ] && echo /dev/${d##*/}; done; }
"#;

/// A config of a guest with these drives that runs `script` from a disk of its own, for a command line is too short.
fn config(folder: &Folder, script: &str, drives: &[String], vcpus: u32) -> PathBuf {
    let mut text = format!("{COMMON}{script}\n").into_bytes();
    text.resize(text.len().next_multiple_of(512), b'\n');
    fs::write(folder.join("script"), text).unwrap();
    let script = drive("script", &folder.join("script"), r#", "is_read_only": true"#);
    let config = folder.join("vm.json");
    let text = format!(
        r#"{{"boot-source": {{"kernel_bundle": "{}", "command": ["sh", "/dev/vda"]}},
            "machine-config": {{"vcpu_count": {vcpus}, "mem_size_mib": 256}}, "drives": [{script}, {}]}}"#,
        bundle().display(),
        drives.join(", ")
    );
    fs::write(&config, text).unwrap();
    config
}

fn drive(id: &str, path: &Path, more: &str) -> String {
    let path = path.display();
    format!(r#"{{"drive_id": "{id}", "is_root_device": false, "path_on_host": "{path}"{more}}}"#)
}

/// Fills a file system on each disk, checks it, and reads everything again.
const EVERY_KIND: &str = r#"
        dd if=$(dev tools) of=/e2fsck bs=64k 2>/dev/null; chmod +x /e2fsck
        dd if=/dev/urandom of=/seed bs=64k count=24 2>/dev/null
        modes="sync async unsafe queues device concat striped overlay"
        fill() {
            mkdir -p /mnt/$1; mount -t ext4 $2 /mnt/$1 || return
            for i in 1 2; do (cat /seed; echo $1 $i) > /mnt/$1/file$i; done
            for i in $(seq 30); do echo $1 $i > /mnt/$1/small$i; done
            rm /mnt/$1/small1*; (cd /mnt/$1 && md5sum file* small*) > /sum.$1; umount /mnt/$1
        }
        for m in $modes; do fill $m $(dev $m) & done; wait
        echo 3 > /proc/sys/vm/drop_caches
        for m in $modes; do
            d=$(dev $m); /e2fsck -fn $d > /out.$m 2>&1; echo "FSCK $m $?"
            mount -t ext4 -o ro $d /mnt/$m && (cd /mnt/$m && md5sum -cs /sum.$m && echo "SUM $m $(wc -l < /sum.$m)")
            umount /mnt/$m
        done
        d=$(dev direct); dd if=/seed of=$d bs=64k 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches
        dd if=$d bs=4k count=384 2>/dev/null | cmp - /seed && echo "SUM direct"
        mount -t ext4 $(dev sync) /mnt/sync; fstrim /mnt/sync && echo "TRIM done"; umount /mnt/sync
        dd if=/seed of=$(dev tools) bs=512 count=1 conv=fsync 2>/dev/null || echo "TOOLS read only"
        blockdev --getsize64 $(dev striped)"#;

fn sh(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// A loop device over a file, and what is mounted from it; undone when dropped.
struct Loop {
    device: String,
    mount: Option<PathBuf>,
}

impl Loop {
    fn new(number: u32, file: &Path) -> Self {
        let device = format!("/dev/loop{number}");
        sh(&format!(
            "losetup -d {device} 2>/dev/null || :; losetup {device} {}",
            file.display()
        ));
        Self { device, mount: None }
    }

    fn mount(mut self, folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        sh(&format!("mount -t ext4 {} {}", self.device, folder.display()));
        self.mount = Some(folder.to_owned());
        self
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(folder) = &self.mount {
            let _ = Command::new("umount").arg(folder).status();
        }
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// The parts of a disk, as they are striped over three files.
fn striped(image: &[u8], stripe: usize) -> [Vec<u8>; 3] {
    let mut parts = [const { Vec::new() }; 3];
    for (index, piece) in image.chunks(stripe).enumerate() {
        parts[index % 3].extend_from_slice(piece);
    }
    parts
}

#[test]
fn a_file_system_lives_on_every_kind_of_disk() {
    let folder = Folder::new("disks");
    let at = |name: &str| folder.join(name);
    let image = image();
    let put = |name: &str, bytes: &[u8]| fs::write(at(name), bytes).unwrap();
    for name in ["sync", "async", "unsafe", "queues", "base", "device"] {
        put(name, &image);
    }
    put("concat0", &image[..5 << 20]);
    put("concat1", &image[5 << 20..]);
    for (index, part) in striped(&image, 64 << 10).iter().enumerate() {
        put(&format!("striped{index}"), part);
    }
    let checker = bundle().join("e2fsck");
    let mut tools = fs::read(&checker)
        .unwrap_or_else(|error| panic!("{}: {error}; make it by `resources/ci/e2fsck`", checker.display()));
    tools.resize(tools.len().next_multiple_of(512), 0);
    put("tools", &tools);
    // Direct I/O needs a file system that has it, so there is one on a loop device; another is a disk itself.
    fs::File::create(at("backing")).unwrap().set_len(48 << 20).unwrap();
    put("backing", &image);
    let backing = Loop::new(6, &at("backing")).mount(&at("mnt"));
    fs::File::create(at("mnt/direct")).unwrap().set_len(8 << 20).unwrap();
    let device = Loop::new(7, &at("device"));

    let list = |names: &[&str]| {
        let quoted: Vec<_> = names.iter().map(|name| format!("{:?}", at(name))).collect();
        quoted.join(", ")
    };
    let drives = [
        drive("tools", &at("tools"), r#", "is_read_only": true"#),
        drive("sync", &at("sync"), r#", "cache_type": "Writeback", "discard": true"#),
        drive(
            "async",
            &at("async"),
            r#", "cache_type": "Writeback", "io_engine": "Async""#,
        ),
        drive("unsafe", &at("unsafe"), ""),
        drive(
            "queues",
            &at("queues"),
            r#", "num_queues": 2, "cache_type": "Writeback""#,
        ),
        drive("device", Path::new(&device.device), r#", "cache_type": "Writeback""#),
        drive(
            "concat",
            &at("concat0"),
            &format!(
                r#", "further_paths": [{}], "cache_type": "Writeback""#,
                list(&["concat1"])
            ),
        ),
        drive(
            "striped",
            &at("striped0"),
            &format!(
                r#", "further_paths": [{}], "stripe_kib": 64, "cache_type": "Writeback""#,
                list(&["striped1", "striped2"])
            ),
        ),
        drive(
            "overlay",
            &at("base"),
            &format!(r#", "overlay": {}, "cache_type": "Writeback""#, list(&["layer"])),
        ),
        drive("direct", &at("mnt/direct"), r#", "direct_io": true"#),
    ];
    let config = config(&folder, EVERY_KIND, &drives, 1);
    let mut ended = Run::new(["vm", "run"]).arg(&config).end().code(0);
    for mode in [
        "sync", "async", "unsafe", "queues", "device", "concat", "striped", "overlay",
    ] {
        ended = ended.shows(&format!("FSCK {mode} 0")).shows(&format!("SUM {mode} 21"));
    }
    let ended = ended
        .shows("SUM direct")
        .shows("TRIM done")
        .shows("TOOLS read only")
        .shows("25165824");
    drop((ended, backing));
    assert!(fs::read(at("base")).unwrap() == image, "the base stays as it was");
    let layer = fs::read(at("layer")).unwrap();
    assert!(layer.starts_with(b"coracle overlay\n"));
    let parts = ["concat0", "concat1"].map(|name| fs::read(at(name)).unwrap());
    assert_eq!(parts.each_ref().map(Vec::len), [5 << 20, 19 << 20]);
    assert!(parts.concat() != image, "the guest has written");
}

#[test]
fn storage_that_fails_costs_requests_and_never_the_guest() {
    let folder = Folder::new("failing");
    let at = |name: &str| folder.join(name);
    // A disk that is larger than its file system, and a block device over another one: what the first sees as a lack of
    // room is an I/O error (EIO) of the second.
    fs::create_dir_all(at("small")).unwrap();
    sh(&format!("mount -t tmpfs -o size=4m small {}", at("small").display()));
    for name in ["small/full", "small/behind"] {
        fs::File::create(at(name)).unwrap().set_len(16 << 20).unwrap();
    }
    let failing = Loop::new(5, &at("small/behind"));
    fs::write(at("limited"), vec![1; 8 << 20]).unwrap();
    fs::write(at("busy"), vec![1; 16 << 20]).unwrap();
    let script = r#"
        echo 0 > /proc/sys/kernel/printk
        full=$(dev full); failing=$(dev failing)
        dd if=/dev/zero of=$full bs=1M count=16 conv=fsync 2>/dev/null || echo "FULL fails"
        dd if=$full of=/dev/null bs=1M count=2 2>/dev/null && echo "FULL reads"
        dd if=/dev/zero of=$failing bs=1M count=8 conv=fsync 2>/dev/null || echo "FAILING fails"
        dd if=$failing of=/dev/null bs=64k count=1 skip=255 2>/dev/null && echo "FAILING reads"
        up() { tr -d . < /proc/uptime | cut -d' ' -f1; }
        a=$(up); dd if=$(dev limited) of=/dev/null bs=1M count=8 2>/dev/null; b=$(up)
        echo "LIMITED $((b - a))"
        busy=$(dev busy); name=$(basename $(readlink -f /sys/block/${busy##*/}/device))
        cd /sys/bus/virtio/drivers/virtio_blk
        for i in $(seq 50); do
            dd if=$busy of=/dev/null bs=64k count=256 2>/dev/null &
            dd if=/dev/zero of=$busy bs=64k count=64 2>/dev/null &
            echo $name > unbind; wait; echo $name > bind
        done
        busy=$(dev busy); dd if=$busy of=/dev/null bs=1M 2>/dev/null && echo "BUSY reads""#;
    let limit = r#", "rate_limiter": {"bandwidth": {"size": 1048576, "refill_time": 100}}"#;
    let drives = [
        drive("full", &at("small/full"), ""),
        drive("failing", Path::new(&failing.device), r#", "direct_io": true"#),
        drive("limited", &at("limited"), limit),
        drive("busy", &at("busy"), r#", "io_engine": "Async", "num_queues": 2"#),
    ];
    let config = config(&folder, script, &drives, 2);
    let ended = Run::new(["vm", "run"]).arg(&config).end();
    drop(failing);
    sh(&format!("umount {}", at("small").display()));
    let ended = ended.code(0);
    // 8 MiB at 10 MiB/s with 1 MiB at once: 700 ms.
    let centiseconds = ended.number("LIMITED");
    assert!(centiseconds >= 66, "{centiseconds}");
    println!("a limit of 10 MiB/s: 7 MiB took {centiseconds} hundredths of a second");
    ended
        .shows("FULL fails")
        .shows("FULL reads")
        .shows("FAILING fails")
        .shows("FAILING reads")
        .shows("BUSY reads")
        .says("drive full: a write at sector")
        .says("Input/output error (os error 5)");
}

#[test]
fn disks_that_cannot_be_used_are_refused_with_the_way_out() {
    let folder = Folder::new("refused");
    let disk = folder.join("disk");
    fs::write(&disk, vec![0; 4096]).unwrap();
    let refused = |option: &str, text: &str| {
        let drive = format!("{}{option}", disk.display());
        let ended = Run::guest(&["--drive", &drive], "true").end();
        ended.code(152).says(text);
    };
    refused(".none", "is the path right, and may this user read and write it?");
    let lock = fs::File::open(&disk).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    refused("", "is in use by process");
    drop(lock);
    refused(
        &format!(",overlay={}", disk.display()),
        "is in use by another disk of this process",
    );
}
