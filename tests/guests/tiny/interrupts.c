/* IDT, the two PICs, the PIT, and what happens on an interrupt. */
#include "tiny.h"

#define FIRST_LINE 0x20
#define VECTORS 48
#define PIC_COMMAND 0x20
#define PIC_DATA 0x21
#define SLAVE_COMMAND 0xA0
#define SLAVE_DATA 0xA1
#define END_OF_INTERRUPT 0x20
#define READ_IN_SERVICE 0x0B
#define PIT_HZ 1193182

struct gate {
    uint16_t offset_low, selector, type, offset_high;
};

extern const uint32_t interrupt_entries[VECTORS];

volatile uint32_t ticks;
volatile uint32_t counts[LINES];
volatile uint32_t spurious;
struct acknowledge acknowledges[LINES];

static struct gate idt[VECTORS];

void line_mask(unsigned line, bool masked)
{
    uint16_t port = line < 8 ? PIC_DATA : SLAVE_DATA;
    uint8_t bit = 1u << (line & 7);
    out8(port, masked ? in8(port) | bit : in8(port) & ~bit);
}

static void pic_init(void)
{
    out8(PIC_COMMAND, 0x11);
    out8(PIC_DATA, FIRST_LINE);
    out8(PIC_DATA, 1 << 2);
    out8(PIC_DATA, 0x01);
    out8(SLAVE_COMMAND, 0x11);
    out8(SLAVE_DATA, FIRST_LINE + 8);
    out8(SLAVE_DATA, 2);
    out8(SLAVE_DATA, 0x01);
    out8(PIC_DATA, 0xFF & ~(1 << 2));
    out8(SLAVE_DATA, 0xFF);
}

static void pit_init(void)
{
    uint16_t divisor = (PIT_HZ + HZ / 2) / HZ;
    out8(0x43, 0x34); /* counter 0, two bytes, rate generator */
    out8(0x40, divisor & 0xFF);
    out8(0x40, divisor >> 8);
}

void interrupts_init(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint32_t base;
    } pointer = {sizeof idt - 1, (uint32_t)idt};

    for (unsigned vector = 0; vector < VECTORS; vector++) {
        uint32_t entry = interrupt_entries[vector];
        idt[vector] = (struct gate){entry & 0xFFFF, 0x08, 0x8E00, entry >> 16};
    }
    __asm__ volatile("lidt %0" : : "m"(pointer));
    pic_init();
    pit_init();
    line_mask(0, false);
    line_mask(SERIAL_LINE, false);
    __asm__ volatile("sti");
}

/* Lines 7 and 15 answer for a request that went away before it was acknowledged. */
static bool is_spurious(unsigned line)
{
    uint16_t command = line < 8 ? PIC_COMMAND : SLAVE_COMMAND;
    if ((line & 7) != 7)
        return false;
    out8(command, READ_IN_SERVICE);
    return !(in8(command) & 0x80);
}

static void on_line(unsigned line)
{
    const struct acknowledge *acknowledge = &acknowledges[line];
    if (is_spurious(line)) {
        spurious++;
        if (line > 7)
            out8(PIC_COMMAND, END_OF_INTERRUPT); /* the cascade was real */
        return;
    }
    counts[line]++;
    if (line == 0)
        ticks++;
    else if (line == SERIAL_LINE)
        serial_interrupt();
    if (acknowledge->action == READ)
        in8(acknowledge->port);
    else if (acknowledge->action == WRITE)
        out8(acknowledge->port, acknowledge->value);
    if (line > 7)
        out8(SLAVE_COMMAND, END_OF_INTERRUPT);
    out8(PIC_COMMAND, END_OF_INTERRUPT);
}

void on_interrupt(const struct frame *frame)
{
    if (frame->vector >= FIRST_LINE) {
        on_line(frame->vector - FIRST_LINE);
        return;
    }
    print("\nexception %u error 0x%x eip 0x%x cr2 0x%x\n", frame->vector, frame->error, frame->eip, frame->cr2);
    halt_forever();
}
