/* Entry by multiboot 1, and the first instructions of each interrupt. */

#define MULTIBOOT_MAGIC 0x1BADB002
#define MULTIBOOT_FLAGS 3               /* modules on page boundaries, a memory map */

        .section .multiboot, "a"
        .align  4
        .long   MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .text
        .global start
start:
        cli
        cld
        movl    $stack_top, %esp
        lgdt    gdt_pointer             /* the loader's table may lie anywhere, and be overwritten */
        ljmp    $0x08, $1f
1:      movw    $0x10, %cx
        movw    %cx, %ds
        movw    %cx, %es
        movw    %cx, %fs
        movw    %cx, %gs
        movw    %cx, %ss
        pushl   %ebx                    /* the information structure */
        pushl   %eax                    /* the loader's magic */
        call    tiny_main
2:      cli
        hlt
        jmp     2b

/* Every vector comes here with its number and an error code on the stack; see struct frame. */
interrupt:
        pushal
        cld
        movl    %cr2, %eax
        pushl   %eax
        pushl   %esp
        call    on_interrupt
        addl    $8, %esp
        popal
        addl    $8, %esp
        iret

        .altmacro
        .macro  entry number
entry_\number:
        .if     (\number != 8) && ((\number < 10) || (\number > 14)) && (\number != 17) && (\number != 21) && (\number != 29) && (\number != 30)
        pushl   $0                      /* the CPU pushes an error code for the others */
        .endif
        pushl   $\number
        jmp     interrupt
        .endm

        .macro  address number
        .long   entry_\number
        .endm

        .set    vector, 0
        .rept   48
        entry   %vector
        .set    vector, vector + 1
        .endr

        .section .rodata
        .global interrupt_entries
        .align  4
interrupt_entries:
        .set    vector, 0
        .rept   48
        address %vector
        .set    vector, vector + 1
        .endr

        .align  8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF      /* 0x08: code, flat */
        .quad   0x00CF93000000FFFF      /* 0x10: data, flat */
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .bss
        .align  16
        .skip   16384
stack_top:
