/* Entry of the benchmark guests: a multiboot kernel that goes to flat 32-bit mode (MODE 0), 32-bit mode with
 * 4 KiB pages (1) or 64-bit mode with 2 MiB pages (2), turns SSE on, and calls run(command line).  It has a
 * GDT of its own, since that of the loader may be gone.
 * Reference: Multiboot Specification 0.6.96, sections 3.1 to 3.3. */

#define MAGIC 0x1BADB002
#define FLAGS 0x00000003

        .section .multiboot, "a"
        .align 4
        .long MAGIC, FLAGS, -(MAGIC + FLAGS)

        .section .text
        .code32
        .globl _start
_start: mov $stack_end, %esp
        cld
        mov 16(%ebx), %ebp              /* the command line */
        mov %cr0, %eax
        and $~4, %eax                   /* no emulation of the x87 */
        or $2, %eax
        mov %eax, %cr0
        mov %cr4, %eax
        or $0x600, %eax                 /* OSFXSR, OSXMMEXCPT */
        mov %eax, %cr4
        fninit
#if MODE == 1
        /* Sixteen page tables: 64 MiB, each page where it is. */
        mov $tables, %edi
        mov $7, %eax
1:      stosl
        add $0x1000, %eax
        cmp $0x4000007, %eax
        jb 1b
        mov $directory, %edi
        mov $tables + 7, %eax
        mov $16, %ecx
2:      stosl
        add $0x1000, %eax
        loop 2b
        mov $directory, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
#endif
#if MODE == 2
        mov $tables, %edi               /* 32 pages of 2 MiB */
        mov $0x87, %eax
1:      mov %eax, (%edi)
        add $8, %edi
        add $0x200000, %eax
        cmp $0x4000087, %eax
        jb 1b
        movl $tables + 7, pointers
        movl $pointers + 7, directory
        mov $directory, %eax
        mov %eax, %cr3
        mov %cr4, %eax
        or $0x20, %eax                  /* PAE */
        mov %eax, %cr4
        mov $0xC0000080, %ecx
        rdmsr
        or $0x100, %eax                 /* EFER.LME */
        wrmsr
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        lgdt descriptor
        ljmp $8, $long_mode
        .code64
long_mode:
        mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $stack_end, %rsp
        mov %ebp, %edi
        call run
#else
        lgdt descriptor
        ljmp $24, $protected_mode
protected_mode:
        mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        push %ebp
        call run
#endif
3:      hlt
        jmp 3b

        .align 8
gdt:    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF
descriptor:
        .word . - gdt - 1
        .long gdt

        .section .bss
        .align 4096
        .globl directory, pointers
directory: .skip 4096
pointers:  .skip 4096
tables:    .skip 16 * 4096
        .skip 65536
stack_end:

        .section .note.GNU-stack, "", @progbits
