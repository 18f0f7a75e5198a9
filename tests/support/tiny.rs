//! Tiny guests: a few machine instructions in a kernel image, for tests of the VMM that need no operating system.
#![allow(dead_code, reason = "each test program uses a part of it")]
use coracle::config::spec::{
    BootSource, BootSpec, ConsoleSpec, HugePages, KernelLoad, MemorySpec, OnReboot, Protocol, SerialInput,
    SerialOutput, SerialSpec, VirtioTransport, VmSpec,
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
    /// Writes so many times the 64 bytes that [`pattern`] goes on with, as fast as the serial port allows, and powers
    /// off.
    Pattern(u32),
    /// Reads so many bytes, writes their [`sum`] and powers off.
    Sum(u32),
}

/// The first steps of the sequence that [`Program::Pattern`] writes, as bytes.
pub fn pattern(blocks: u32) -> Vec<u8> {
    let mut state: u32 = 1;
    let steps = (0..blocks * 16).flat_map(|_| {
        state = state.wrapping_mul(FACTOR).wrapping_add(STEP);
        state.to_le_bytes()
    });
    steps.collect()
}

/// What [`Program::Sum`] makes of its input: it depends on each byte and on their order.
pub fn sum(bytes: &[u8]) -> [u8; 4] {
    let add = |sum: u32, byte: &u8| sum.wrapping_mul(31).wrapping_add(u32::from(*byte));
    bytes.iter().fold(0, add).to_le_bytes()
}

const FACTOR: u32 = 1_664_525;
const STEP: u32 = 1_013_904_223;

/// Writes a kernel image with `program` into `folder` and answers a spec that boots it.
pub fn spec(folder: &Path, program: Program, output: SerialOutput) -> VmSpec {
    let kernel = kernel(folder, program);
    VmSpec {
        boot: BootSpec {
            source: BootSource::Files { kernel, initrd: None },
            cmdline: Some(String::new()),
            root: None,
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
        virtio_transport: VirtioTransport::Mmio,
        console: ConsoleSpec::default(),
        devices: Vec::new(),
        on_reboot: OnReboot::Restart,
        logger: None,
    }
}

/// Writes a kernel image with `program` into `folder`.
pub fn kernel(folder: &Path, program: Program) -> PathBuf {
    let kernel = folder.join("tiny");
    std::fs::write(&kernel, image(program)).unwrap();
    kernel
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

/// A kernel image that powers off, for an architecture that is not this machine's.
pub fn foreign_kernel(folder: &Path) -> PathBuf {
    let kernel = folder.join("foreign");
    let image = match Host::NAME {
        "x86_64" => arm64_image(&[0, 0, 0, 0x14]),
        _ => elf(&x86_64(Program::PowerOff)),
    };
    std::fs::write(&kernel, image).unwrap();
    kernel
}

/// Whether a kernel image is ELF.
pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
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
        Program::Pattern(blocks) => [
            &[0x41, 0xb8],
            &blocks.to_le_bytes()[..],       // mov r8d,blocks
            &[0xbb, 1, 0, 0, 0],             // mov ebx,1
            &[0x66, 0xba, 0xfd, 0x03],       // block: mov dx,0x3fd
            &[0xec, 0xa8, 0x20, 0x74, 0xfb], // wait: in al,dx; test al,THRE; jz wait
            &[0x66, 0xba, 0xf8, 0x03],       // mov dx,0x3f8
            &[0xb9, 16, 0, 0, 0],            // mov ecx,16
            &[0x69, 0xdb],
            &FACTOR.to_le_bytes(), // next: imul ebx,ebx,FACTOR
            &[0x81, 0xc3],
            &STEP.to_le_bytes(),                         // add ebx,STEP
            &[0x89, 0xd8, 0xef, 0xff, 0xc9, 0x75, 0xed], // mov eax,ebx; out dx,eax; dec ecx; jnz next
            &[0x41, 0xff, 0xc8, 0x75, 0xd6],             // dec r8d; jnz block
            &x86_64(Program::PowerOff),
        ]
        .concat(),
        Program::Sum(count) => [
            &[0x41, 0xb8],
            &count.to_le_bytes()[..],                          // mov r8d,count
            &[0x31, 0xdb],                                     // xor ebx,ebx
            &[0x66, 0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee],       // mov dx,0x3f9; mov al,1; out dx,al
            &[0x66, 0xba, 0xfd, 0x03],                         // poll: mov dx,0x3fd
            &[0xec, 0xa8, 0x01, 0x74, 0xfb],                   // wait: in al,dx; test al,DR; jz wait
            &[0x66, 0xba, 0xf8, 0x03, 0xec, 0x0f, 0xb6, 0xc0], // mov dx,0x3f8; in al,dx; movzx eax,al
            &[0x6b, 0xdb, 31, 0x01, 0xc3],                     // imul ebx,ebx,31; add ebx,eax
            &[0x41, 0xff, 0xc8, 0x75, 0xe5],                   // dec r8d; jnz poll
            &[0x89, 0xd8, 0xef],                               // mov eax,ebx; out dx,eax
            &x86_64(Program::PowerOff),
        ]
        .concat(),
    }
}

fn aarch64(program: Program) -> Vec<u8> {
    aarch64_code(program).iter().flat_map(|i| i.to_le_bytes()).collect()
}

/// The serial port is at x2; w1 is a state, w3 a byte or a status, w4 and w5 count, w6 and w7 are constants.
fn aarch64_code(program: Program) -> Vec<u32> {
    const STAY: u32 = 0x1400_0000; // b .
    let hvc = 0xd400_0002; // hvc #0
    let psci = |function: u32| vec![movz_high(0, 0x8400), movk_low(0, function), hvc, STAY];
    let base = || {
        let console = Host::PLATFORM.iter().find(|p| p.kind == PartKind::Console).unwrap();
        assert_eq!(console.space, Space::Mmio);
        load(2, u32::try_from(console.base).unwrap())
    };
    match program {
        Program::PowerOff => psci(8),
        Program::Reset => psci(9),
        Program::Spin => vec![STAY],
        // strb w1,[x2]; b -1
        Program::Chatter => [&base()[..], &load(1, b'.'.into()), &[0x3900_0041, 0x17ff_ffff]].concat(),
        // udf #0 with no vector table: the CPU takes the exception for ever
        Program::Crash => vec![0],
        Program::Pattern(blocks) => [
            &base()[..],
            &load(5, blocks),
            &load(1, 1),
            &load(6, FACTOR),
            &load(7, STEP),
            &[0x3940_1443, 0x362f_ffe3], // block: ldrb w3,[x2,#5]; tbz w3,#5,block
            &load(4, 16),
            &[0x1b06_1c21, 0xb900_0041], // next: madd w1,w1,w6,w7; str w1,[x2]
            &[0x7100_0484, 0x54ff_ffa1], // subs w4,w4,#1; b.ne next
            &[0x7100_04a5, 0x54ff_fee1], // subs w5,w5,#1; b.ne block
            &psci(8),
        ]
        .concat(),
        Program::Sum(count) => [
            &base()[..],
            &load(5, count),
            &load(1, 1),
            &[0x3900_0441], // strb w1,[x2,#1]
            &load(1, 0),
            &load(6, 31),
            &[0x3940_1443, 0x3607_ffe3], // poll: ldrb w3,[x2,#5]; tbz w3,#0,poll
            &[0x3940_0043, 0x1b06_0c21], // ldrb w3,[x2]; madd w1,w1,w6,w3
            &[0x7100_04a5, 0x54ff_ff61], // subs w5,w5,#1; b.ne poll
            &[0xb900_0041],              // str w1,[x2]
            &psci(8),
        ]
        .concat(),
    }
}

fn load(register: u32, value: u32) -> [u32; 2] {
    [movz_high(register, value >> 16), movk_low(register, value & 0xffff)]
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
