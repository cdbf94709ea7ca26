/* References: Intel 8259A data sheet (231468-003), "Initialization Command Words"; Intel 8254 (231164-005);
 * ATA/ATAPI-6, sections 7 and 8; Intel SDM 3A, 6.11 and 6.14 (gates). */
#include "machine.h"

enum { ATA = 0x1F0, ATA_CONTROL = 0x3F6, BUSY = 0x80, DATA_REQUEST = 8, NO_INTERRUPT = 2 };
enum { INTERRUPT_GATE = 0x8E00 };

volatile u32 interrupts;

static struct gate {
    u16 low, selector;
    u16 attributes, middle;
#ifdef __x86_64__
    u32 high, reserved;
#endif
} gates[256] __attribute__((aligned(16)));

__asm__(".globl tick\n"
        "tick:\n"
#ifdef __x86_64__
        "push %rax\n"
        "incl interrupts\n"
        "mov $0x20, %al\n"
        "out %al, $0x20\n"
        "pop %rax\n"
        "iretq\n"
#else
        "push %eax\n"
        "incl interrupts\n"
        "mov $0x20, %al\n"
        "out %al, $0x20\n"
        "pop %eax\n"
        "iret\n"
#endif
);

static void unexpected(void)
{
    give_up("an interrupt or exception that nobody expects");
}

void set_gate(unsigned vector, const void *handler)
{
    word at = (word)handler;
    u16 selector;
    __asm__("mov %%cs, %0" : "=r"(selector));
    gates[vector] = (struct gate){
        .low = (u16)at, .selector = selector, .attributes = INTERRUPT_GATE, .middle = (u16)(at >> 16)};
}

void set_up_interrupts(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) table = {sizeof gates - 1, (word)gates};
    for (unsigned vector = 0; vector < 256; vector++) {
        set_gate(vector, (const void *)unexpected);
    }
    __asm__ volatile("lidt %0" : : "m"(table));
    static const u16 words[][2] = {
        {0x20, 0x11}, {0x21, PIC_FIRST}, {0x21, 4}, {0x21, 1}, {PIC_MASK, ALL_MASKED},
        {0xA0, 0x11}, {0xA1, PIC_FIRST + 8}, {0xA1, 2}, {0xA1, 1}, {PIC_MASK2, ALL_MASKED},
    };
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
        out8(words[i][0], (u8)words[i][1]);
    }
}

void set_clock(u32 divisor)
{
    out8(0x43, 0x34); /* counter 0, both bytes, mode 2 */
    out8(0x40, (u8)divisor);
    out8(0x40, (u8)(divisor >> 8));
}

/* A count that never comes. */
void stop_clock(void)
{
    out8(0x43, 0x30); /* mode 0 */
}

int disk_ready(void)
{
    out8(ATA_CONTROL, NO_INTERRUPT);
    out8(ATA + 6, 0xE0);
    u8 status = in8(ATA + 7);
    return status != 0xFF && (status & 0x40) && !disk_wait();
}

void disk_command(enum disk_command command, u32 sector)
{
    out8(ATA + 6, (u8)(0xE0 | sector >> 24));
    out8(ATA + 2, (u8)SECTORS_AT_ONCE); /* 0 stands for 256 */
    out8(ATA + 3, (u8)sector);
    out8(ATA + 4, (u8)(sector >> 8));
    out8(ATA + 5, (u8)(sector >> 16));
    out8(ATA + 7, (u8)command);
}

int disk_wait(void)
{
    u8 status;
    do {
        status = in8(ATA_CONTROL);
    } while (status & BUSY);
    return status & DATA_REQUEST;
}
