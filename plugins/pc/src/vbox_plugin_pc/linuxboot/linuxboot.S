/* An option ROM that starts the Linux kernel of the firmware configuration device (fw_cfg).
 *
 * Firmware calls the entry point of each option ROM once, and offers those whose PnP header has a bootstrap
 * entry vector (BEV) as something to start from: Plug and Play BIOS Specification 1.0A, section 3; BIOS Boot
 * Specification 1.01.  Ours, when it is started, fetches four items by the DMA interface of fw_cfg (QEMU's
 * docs/specs/fw_cfg.rst) straight to where they belong, and enters the kernel's setup code as
 * Documentation/arch/x86/boot.rst says:
 *
 *     setup code, kernel, command line: addresses and sizes are items, too
 *     initrd: its address is an item; where the firmware's memory map (INT 15h E820h) says that RAM ends
 *             before its end, it goes further down, and the setup header is told
 *
 * Everything is 16-bit code in real mode, for an 80486 (BSWAP) or later, as kernels are.  The ROM is
 * read-only, so all that changes lies on the stack, which is the firmware's until the kernel is entered.
 *
 * Builds with GNU as, in any version: see build.py.  Sizes, checksum and the PnP checksum are filled in there.
 */

        .code16
        .arch   i486
        .section .text, "ax"
        .globl  _start

        /* fw_cfg: ports, items, control bits of DMA (which are big-endian, like all of a descriptor) */
        .set    CFG_SELECT, 0x510
        .set    CFG_DATA, 0x511
        .set    CFG_DMA_LOW, 0x518
        .set    ITEM_SIGNATURE, 0x00
        .set    ITEM_ID, 0x01
        .set    ID_DMA, 2
        .set    DMA_ERROR, 1
        .set    DMA_READ_SELECTED, 0x0a

        .set    KERNEL_ADDRESS, 0x07
        .set    KERNEL_SIZE, 0x08
        .set    INITRD_ADDRESS, 0x0a
        .set    INITRD_SIZE, 0x0b
        .set    KERNEL_DATA, 0x11
        .set    INITRD_DATA, 0x12
        .set    CMDLINE_ADDRESS, 0x13
        .set    CMDLINE_SIZE, 0x14
        .set    CMDLINE_DATA, 0x15
        .set    SETUP_ADDRESS, 0x16
        .set    SETUP_SIZE, 0x17
        .set    SETUP_DATA, 0x18

        .set    HEADER_RAMDISK_IMAGE, 0x218
        .set    HEADER_HEAP_END, 0x224
        .set    SMAP, 0x534d4150
        .set    E820_RAM, 1

/* ---- header ---- */
_start:
        .word   0xaa55
        .byte   0                       /* size in units of 512 bytes: build.py */
        jmp     init                    /* two bytes at 3 */
        .byte   0
        .byte   0                       /* at 6: checksum, build.py */
        .org    0x18
        .word   0                       /* no PCI data structure: this ROM belongs to no card */
        .word   pnp

        .org    0x20
pnp:    .ascii  "$PnP"
        .byte   1                       /* revision */
        .byte   2                       /* length in units of 16 bytes */
        .word   0                       /* no further header */
        .byte   0
        .byte   0                       /* at 9: checksum, build.py */
        .long   0                       /* device id */
        .word   maker
        .word   product
        .byte   0, 0, 0                 /* device type */
        .byte   0x14                    /* initial program load, read cacheable; not needed later */
        .word   0                       /* no boot connection vector: it is no disk */
        .word   0                       /* nor disconnection */
        .word   boot                    /* bootstrap entry vector */
        .word   0
        .word   0                       /* no static resources */

maker:  .asciz  "vbox-vmm"
product:
        .asciz  "Linux loader (fw_cfg)"

/* Called once, by a far call: nothing to set up. */
init:   movw    $0x20, %ax              /* an IPL device is there */
        lret

/* ---- bootstrap: a far call that does not return when all is well ----
 *
 * Frame below %bp:
 */
        .set    descriptor, -16         /* of a DMA transfer: control, length, 64-bit address */
        .set    entry, -40              /* an entry of the memory map: base, length, type, attributes */
        .set    initrd_at, -44
        .set    initrd_size, -48
        .set    moved, -52              /* whether the initrd lies elsewhere than the header says */
        .set    frame, 52

boot:   cli
        cld
        pushal
        pushw   %ds
        pushw   %es
        movw    %sp, %bp
        subw    $frame, %sp
        movw    %ss, %ax
        movw    %ax, %ds
        movw    %ax, %es

        movw    $ITEM_SIGNATURE, %ax
        call    get_item
        cmpl    $0x554d4551, %eax       /* "QEMU" */
        jne     no_device
        movw    $ITEM_ID, %ax
        call    get_item
        testb   $ID_DMA, %al
        jz      no_device
        movw    $KERNEL_SIZE, %ax
        call    get_item
        testl   %eax, %eax
        jz      no_kernel

        call    place_initrd
        jc      no_room

        movw    $(SETUP_DATA), %si
        movw    $(SETUP_ADDRESS), %bx
        movw    $(SETUP_SIZE), %cx
        call    load
        movw    $(KERNEL_DATA), %si
        movw    $(KERNEL_ADDRESS), %bx
        movw    $(KERNEL_SIZE), %cx
        call    load
        movw    $(CMDLINE_DATA), %si
        movw    $(CMDLINE_ADDRESS), %bx
        movw    $(CMDLINE_SIZE), %cx
        call    load
        movl    initrd_size(%bp), %edx
        movl    initrd_at(%bp), %eax
        movw    $(INITRD_DATA), %si
        call    transfer

        /* The setup code begins on a paragraph.  Real-mode addresses reach it. */
        movw    $SETUP_ADDRESS, %ax
        call    get_item
        shrl    $4, %eax
        movw    %ax, %es
        cmpb    $0, moved(%bp)
        je      1f
        movl    initrd_at(%bp), %eax
        movl    %eax, %es:HEADER_RAMDISK_IMAGE
1:
        /* Its stack is the end of its heap; all data segments are its own; the entry is 20h paragraphs
           further on.  No interrupts yet: it turns them on itself. */
        movw    %es:HEADER_HEAP_END, %cx
        addw    $0x200, %cx
        andw    $0xfff0, %cx
        movw    %es, %ax
        movw    %ax, %ds
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movzwl  %cx, %esp
        addw    $0x20, %ax
        pushw   %ax
        pushw   $0
        lret

/* ---- what can go wrong: say it, and let the firmware try something else ---- */
no_device:
        movw    $text_no_device, %si
        jmp     fail
no_kernel:
        movw    $text_no_kernel, %si
        jmp     fail
no_room:
        movw    $text_no_room, %si
        jmp     fail
no_transfer:
        movw    $text_no_transfer, %si
fail:   movw    %cs, %ax
        movw    %ax, %ds
        movw    $text_prefix, %di
        call    print
        movw    %si, %di
        call    print
        movw    %bp, %sp
        popw    %es
        popw    %ds
        popal
        sti
        int     $0x18                   /* failed to start: next device */
        lret

/* Print the text at %cs:%di (and %ds:%di). */
print:  movb    (%di), %al
        incw    %di
        testb   %al, %al
        jz      1f
        movb    $0x0e, %ah
        movw    $0x0007, %bx
        pushw   %bp                     /* some BIOSes lose it when they scroll */
        pushw   %si
        pushw   %di
        int     $0x10
        popw    %di
        popw    %si
        popw    %bp
        jmp     print
1:      ret

/* ---- fw_cfg ---- */

/* The dword at the beginning of item %ax, in %eax.  Changes %dx, %cx. */
get_item:
        movw    $CFG_SELECT, %dx
        outw    %ax, %dx
        incw    %dx                     /* CFG_DATA */
        xorl    %eax, %eax
        movw    $4, %cx
1:      inb     %dx, %al
        rorl    $8, %eax
        loop    1b
        ret

/* Fetch the item of which %si, %bx and %cx are the numbers of data, address and size. */
load:   pushw   %bx
        movw    %cx, %ax
        call    get_item
        movl    %eax, %edx
        popw    %ax
        pushl   %edx
        call    get_item
        popl    %edx
        /* falls through */

/* Fetch %edx bytes of item %si to the physical address %eax.  Changes %eax, %ecx, %edx. */
transfer:
        testl   %edx, %edx
        jz      2f
        bswap   %eax
        movl    %eax, descriptor+12(%bp)
        movl    $0, descriptor+8(%bp)
        bswap   %edx
        movl    %edx, descriptor+4(%bp)
        movzwl  %si, %eax
        shll    $16, %eax
        movb    $DMA_READ_SELECTED, %al
        bswap   %eax
        movl    %eax, descriptor(%bp)

        movw    %ss, %ax
        movzwl  %ax, %eax
        shll    $4, %eax
        movzwl  %bp, %ecx
        leal    descriptor(%eax,%ecx), %eax
        bswap   %eax
        movw    $CFG_DMA_LOW, %dx
        outl    %eax, %dx
1:      movl    descriptor(%bp), %eax   /* done when nothing but an error is left */
        testl   %eax, %eax
        jz      2f
        cmpl    $(DMA_ERROR << 24), %eax
        jne     1b
        jmp     no_transfer             /* fail gives the stack back */
2:      ret

/* ---- where the initrd goes ---- */

/* Set initrd_at, initrd_size and moved; carry: there is no room.
 *
 * The entry of the memory map that its address lies in decides.  Without such an entry, or without a memory
 * map, there is nothing to know better by, and the address stays.
 */
place_initrd:
        movb    $0, moved(%bp)
        movw    $INITRD_ADDRESS, %ax
        call    get_item
        movl    %eax, initrd_at(%bp)
        movw    $INITRD_SIZE, %ax
        call    get_item
        movl    %eax, initrd_size(%bp)
        testl   %eax, %eax
        jz      9f

        xorl    %ebx, %ebx
1:      movl    $0xe820, %eax
        movl    $SMAP, %edx
        movl    $20, %ecx
        leaw    entry(%bp), %di
        int     $0x15
        jc      9f
        cmpl    $SMAP, %eax
        jne     9f
        cmpl    $E820_RAM, entry+16(%bp)
        jne     2f
        cmpl    $0, entry+4(%bp)        /* begins above 4 GiB */
        jne     2f
        movl    initrd_at(%bp), %eax
        subl    entry(%bp), %eax        /* offset in the entry */
        jc      2f
        cmpl    $0, entry+12(%bp)       /* 4 GiB long: reaches as far as it takes */
        jne     9f
        movl    entry+8(%bp), %edx
        cmpl    %edx, %eax
        jb      3f
2:      testl   %ebx, %ebx
        jnz     1b
9:      clc
        ret

        /* %edx: length of the entry, %eax: our offset in it. */
3:      movl    %edx, %ecx
        subl    %eax, %ecx              /* room from our address on */
        cmpl    initrd_size(%bp), %ecx
        jae     9b
        subl    initrd_size(%bp), %edx
        jc      8f                      /* the whole entry is too small */
        addl    entry(%bp), %edx
        andl    $0xfffff000, %edx
        /* Not into the kernel: it lies at its address, and is as large as its item says. */
        pushl   %edx
        movw    $KERNEL_ADDRESS, %ax
        call    get_item
        pushl   %eax
        movw    $KERNEL_SIZE, %ax
        call    get_item
        popl    %ecx
        addl    %ecx, %eax
        popl    %edx
        cmpl    %eax, %edx
        jb      8f
        cmpl    entry(%bp), %edx
        jb      8f
        movl    %edx, initrd_at(%bp)
        movb    $1, moved(%bp)
        clc
        ret
8:      stc
        ret

/* ---- texts ---- */
text_prefix:
        .asciz  "Linux loader: "
text_no_device:
        .asciz  "there is no firmware configuration device with DMA\r\n"
text_no_kernel:
        .asciz  "there is no kernel\r\n"
text_no_room:
        .asciz  "the initrd does not fit into the memory that the firmware leaves\r\n"
text_no_transfer:
        .asciz  "the firmware configuration device reports an error\r\n"
