//! From the VMM's entry to ring 3.
//!
//! Ring 0 is left for good: a software KVM runs it instruction by instruction, and whatever leads back to it from ring 3 (an
//! interrupt, an exception, a system call) ends such a guest. So there is no interrupt table, the rest of the program
//! touches memory and device registers only, and what needs ports is done by the second CPU, see [`super::exit`].
use core::arch::global_asm;

/// The first bytes that the second CPU runs; a CPU starts at the beginning of a page below 1 MiB.
pub const SECOND_CPU: usize = 0x1_0000;
/// The text that the second CPU writes to the serial port, ended by a zero.
pub const TEXT: usize = 0x1_1000;

global_asm!(
    r#"
    .section .text.start, "ax"
    .global start
    .code64
start:                              // RSI: the zero page of the boot protocol
    cld
    mov     rdx, rsi
    lgdt    [rip + gdt_pointer]
    lea     rax, [rip + pml4]
    mov     cr3, rax
    mov     rax, cr4
    or      eax, 0x600              // OSFXSR, OSXMMEXCPT: compilers like to move bytes by SSE
    mov     cr4, rax
    lea     rsi, [rip + second_cpu]
    mov     edi, {SECOND_CPU}
    lea     rcx, [rip + second_cpu_end]
    sub     rcx, rsi
    rep movsb

    lea     rcx, [rip + stack - 8]  // as a call leaves it: 8 bytes off a multiple of 16
    mov     rdi, rdx                // the first argument of main
    lea     rax, [rip + {main}]
    push    0x1b                    // SS: data, ring 3
    push    rcx
    push    2                       // RFLAGS: no interrupts
    push    0x23                    // CS: 64-bit code, ring 3
    push    rax
    iretq

    // Real mode, CS = SECOND_CPU / 16: writes the text, then powers off.
    .code16
second_cpu:
    mov     ax, cs
    mov     ds, ax
    mov     si, {TEXT} - {SECOND_CPU}
1:  mov     dx, 0x3fd               // line status of the first serial port
2:  in      al, dx
    test    al, 0x20                // room for a byte
    jz      2b
    lodsb
    test    al, al
    jz      3f
    mov     dx, 0x3f8
    out     dx, al
    jmp     1b
3:  mov     dx, 0x600               // ACPI's sleep control register: S5
    mov     al, 0x34
    out     dx, al
4:  hlt
    jmp     4b
second_cpu_end:
    .code64

    .section .data
    // The first GiB and the fourth one to one, in pages of 2 MiB. Entries: present, writable, for ring 3, accessed.
    .balign 4096
pml4:
    .quad   pdpt + 0x27
    .fill   511, 8, 0
pdpt:
    .quad   memory + 0x27, 0, 0, devices + 0x27
    .fill   508, 8, 0
memory:
    .set    page, 0
    .rept   512
    .quad   page + 0xe7             // as above; dirty, and a page instead of a table
    .set    page, page + 0x200000
    .endr
devices:
    .set    page, 0xc0000000
    .rept   512
    .quad   page + 0xe7
    .set    page, page + 0x200000
    .endr
gdt:
    .quad   0
    .quad   0x00af9b000000ffff      // 0x08: code, ring 0
    .quad   0x00cf93000000ffff      // 0x10: data, ring 0
    .quad   0x00cff3000000ffff      // 0x18: data, ring 3
    .quad   0x00affb000000ffff      // 0x20: code, ring 3
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .quad   gdt

    .section .bss
    .balign 16
    .skip   0x10000
stack:
"#,
    SECOND_CPU = const SECOND_CPU,
    TEXT = const TEXT,
    main = sym super::main,
);
