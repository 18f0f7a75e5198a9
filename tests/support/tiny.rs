//! Tiny guests: a few machine instructions in a kernel image, for tests of the VMM that need no operating system.
#![allow(dead_code, reason = "each test program uses a part of it")]
use coracle::config::spec::{
    BootSource, BootSpec, HugePages, KernelLoad, MemorySpec, OnReboot, Protocol, SerialInput, SerialOutput, SerialSpec,
    VmSpec,
};
use coracle_arch::{
    Arch, Host,
    platform::{PartKind, Space},
};
use std::path::{Path, PathBuf};

/// What the guest does.
#[derive(Clone, Copy)]
pub enum Program {
    /// Powers the machine off.
    PowerOff,
    /// Resets the machine.
    Reset,
    /// Loops for ever without an exit.
    Spin,
    /// Writes the byte `.` to the console for ever.
    Chatter,
    /// Faults with no handler: a triple fault on x86_64.
    Crash,
}

/// Writes a kernel image with `program` into `folder` and answers a spec that boots it.
pub fn spec(folder: &Path, program: Program, output: SerialOutput) -> VmSpec {
    let kernel = folder.join("tiny");
    std::fs::write(&kernel, image(program)).unwrap();
    VmSpec {
        boot: BootSpec {
            source: BootSource::Files { kernel, initrd: None },
            cmdline: Some(String::new()),
            command: vec![],
            load: KernelLoad::Auto,
            protocol: Protocol::Auto,
        },
        vcpus: 1,
        memory: MemorySpec {
            bytes: 32 << 20,
            huge_pages: HugePages::None,
        },
        serial: SerialSpec {
            input: SerialInput::None,
            output,
        },
        on_reboot: OnReboot::Restart,
        logger: None,
    }
}

/// A folder of its own for one test, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("coracle-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl std::ops::Deref for Folder {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn image(program: Program) -> Vec<u8> {
    match Host::NAME {
        "x86_64" => elf(&x86_64(program)),
        "aarch64" => arm64_image(&aarch64(program)),
        other => panic!("no tiny guest for {other}"),
    }
}

fn x86_64(program: Program) -> Vec<u8> {
    match program {
        // mov dx,0x600; mov al,SLP_EN|5<<2; out dx,al; jmp $
        Program::PowerOff => vec![0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe],
        // mov dx,0x602; mov al,1; out dx,al; jmp $
        Program::Reset => vec![0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xeb, 0xfe],
        // jmp $
        Program::Spin => vec![0xeb, 0xfe],
        // mov dx,0x3f8; mov al,'.'; out dx,al; jmp -3
        Program::Chatter => vec![0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xeb, 0xfd],
        // lidt [0x1f00000] (zeros: an empty table); ud2
        Program::Crash => vec![0x0f, 0x01, 0x1c, 0x25, 0x00, 0x00, 0xf0, 0x01, 0x0f, 0x0b],
    }
}

fn aarch64(program: Program) -> Vec<u8> {
    const STAY: u32 = 0x1400_0000; // b .
    let psci = |function: u32| {
        vec![
            movz_high(0, 0x8400),
            movk_low(0, function),
            0xd400_0002, /* hvc #0 */
            STAY,
        ]
    };
    let code = match program {
        Program::PowerOff => psci(8),
        Program::Reset => psci(9),
        Program::Spin => vec![STAY],
        Program::Chatter => {
            let console = Host::PLATFORM.iter().find(|p| p.kind == PartKind::Console).unwrap();
            assert_eq!(console.space, Space::Mmio);
            let base = u32::try_from(console.base).unwrap();
            // movz w1,#'.'; strb w1,[x2]; b -1
            let dot = 0x5280_0000 | u32::from(b'.') << 5 | 1;
            vec![
                movz_high(2, base >> 16),
                movk_low(2, base & 0xffff),
                dot,
                0x3900_0041,
                0x17ff_ffff,
            ]
        }
        // udf #0 with no vector table: the CPU takes the exception for ever
        Program::Crash => vec![0],
    };
    code.iter().flat_map(|i| i.to_le_bytes()).collect()
}

fn movz_high(register: u32, value: u32) -> u32 {
    0xd2a0_0000 | value << 5 | register
}

fn movk_low(register: u32, value: u32) -> u32 {
    0xf280_0000 | value << 5 | register
}

/// An ELF64 executable with one segment at 1 MiB.
fn elf(code: &[u8]) -> Vec<u8> {
    const AT: u64 = 1 << 20;
    const OFFSET: usize = 0x1000;
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([2u16, 62].map(u16::to_le_bytes).concat()); // ET_EXEC, x86-64
    file.extend(1u32.to_le_bytes());
    file.extend([AT, 64, 0].map(u64::to_le_bytes).concat()); // entry, program headers, no sections
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1u32, 5].map(u32::to_le_bytes).concat()); // PT_LOAD, R+X
    let length = code.len() as u64;
    file.extend(
        [OFFSET as u64, AT, AT, length, length, 0x1000]
            .map(u64::to_le_bytes)
            .concat(),
    );
    file.resize(OFFSET, 0);
    file.extend(code);
    file
}

/// An arm64 Image: a branch over its header, then the code.
fn arm64_image(code: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend([0x1400_0010u32, 0].map(u32::to_le_bytes).concat()); // b +64
    file.extend([0u64, 0x1_0000, 0b1010, 0, 0, 0].map(u64::to_le_bytes).concat()); // text offset, size, flags
    file.extend(b"ARM\x64");
    file.extend(0u32.to_le_bytes());
    file.extend(code);
    file
}
