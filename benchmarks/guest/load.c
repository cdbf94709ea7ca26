/* Exits while our own workers are busy, and the way of an interrupt, which probe.py raises from outside.  For
 * 64-bit mode.
 * References: Programming Interface for Bus Master IDE Controller, revision 1.0 (registers, PRD). */
#include "machine.h"

enum {
    COM2 = 0x2F8,
    LINE_STATUS = COM1 + 5,
    PROBE = 0x2C0,        /* out: when the handler began, low and high half of the TSC; in: ends the line */
    PROBE_CONTROL = 0x2C8, /* out: begin; in: whether all is done */
    PROBE_VECTOR = PIC_FIRST + 5,
    AT_ONCE = 100,
};

enum { MASTER_COMMAND = 0, MASTER_STATUS = 2, MASTER_TABLE = 4, START_WRITE = 1, START_READ = 9, ACTIVE = 1, CLEAR = 6 };

enum { SECOND = 1000000000 }; /* the TSC counts nanoseconds */

enum { WIDTH = 1280, HEIGHT = 1024, FRAME_PAGES = 3 };

extern u64 pointers[512];
extern const char answer_probe[];

static u64 frame_tables[512 + FRAME_PAGES] __attribute__((aligned(4096)));

static u8 buffers[2][0x10000] __attribute__((aligned(0x10000)));
static struct {
    u32 address, last_and_size;
} table[2] __attribute__((aligned(16)));

__asm__("answer_probe:\n"
        "push %rax\n"
        "push %rdx\n"
        "push %rcx\n"
        "rdtsc\n"
        "mov %edx, %ecx\n"
        "mov $0x2C0, %edx\n"
        "out %eax, %dx\n"
        "mov %ecx, %eax\n"
        "mov $0x2C4, %edx\n"
        "out %eax, %dx\n"
        "in %dx, %al\n"
        "incl interrupts\n"
        "mov $0x20, %al\n"
        "out %al, $0x20\n"
        "pop %rcx\n"
        "pop %rdx\n"
        "pop %rax\n"
        "iretq\n");

static u32 taken(int halted)
{
    volatile u32 spun = 0;
    out8(PIC_MASK, (u8)~0x20);
    out8(PROBE_CONTROL, (u8)halted);
    while (!in8(PROBE_CONTROL)) {
        u32 seen = interrupts;
        if (halted) {
            __asm__ volatile("sti; hlt; cli");
        } else {
            __asm__ volatile("sti");
            while (interrupts == seen) {
                spun++;
            }
            __asm__ volatile("cli");
        }
    }
    out8(PIC_MASK, ALL_MASKED);
    return interrupts;
}

static u32 busy(u32 rounds) { return taken((int)(rounds & 0)); }
static u32 halted(u32 rounds) { return taken((int)(rounds | 1)); }

/* Line status read over and over, with something to do between: the share of the time since the work has
 * begun is that of the reads. */
static u32 polled(u64 begun, u32 rounds, void (*between)(void))
{
    u64 part = 0;
    for (u32 i = 0; i < rounds; i++) {
        u64 before = clock();
        u32 count = AT_ONCE;
        __asm__ volatile("1: inb %%dx, %%al\n decl %%ecx\n jnz 1b" : "+c"(count) : "d"(LINE_STATUS) : "eax");
        part += clock() - before;
        between();
    }
    u64 all = clock() - begun;
    while (all >> 16) {
        all >>= 1;
        part >>= 1;
    }
    share = (u32)part * WHOLE / (u32)all;
    operations = rounds * AT_ONCE;
    return 0;
}

static void nothing(void)
{
}

static u32 alone(u32 rounds) { return polled(clock(), rounds, nothing); }

/* For a second at least: an exit may take a microsecond here, or milliseconds. */
static u32 hog(u32 rounds)
{
    u64 begun = clock();
    u32 done = 0;
    while (clock() - begun < SECOND) {
        polled(begun, rounds, nothing);
        done += operations;
    }
    operations = done;
    share = WHOLE;
    return 0;
}

static u16 master;
static u32 transfers;
static enum disk_command direction;

static void begin_transfer(void)
{
    disk_command(direction, transfers % 512 * SECTORS_AT_ONCE);
    out8(master + MASTER_COMMAND, direction == READ_DMA ? START_READ : START_WRITE);
}

static void go_on(void)
{
    u8 status = in8(master + MASTER_STATUS);
    if ((status & ACTIVE) || !(status & 4)) {
        return;
    }
    out8(master + MASTER_COMMAND, 0);
    in8(0x1F7);
    out8(master + MASTER_STATUS, CLEAR);
    transfers++;
    begin_transfer();
}

static u32 image(u32 rounds, enum disk_command command)
{
    u64 begun = clock();
    direction = command;
    out32(0xCF8, 0x80000904);
    out32(0xCFC, in32(0xCFC) | 5);
    out32(0xCF8, 0x80000920);
    master = (u16)(in32(0xCFC) & ~3u);
    if (!disk_ready() || !master) {
        give_up("no disk by bus master");
    }
    out8(0x3F6, 0); /* its interrupt is what the bus master's status shows */
    for (int i = 0; i < 2; i++) {
        table[i].address = (u32)(word)buffers[i];
        table[i].last_and_size = i ? 0x80000000 : 0; /* 64 KiB each */
    }
    out8(master + MASTER_COMMAND, 0);
    out8(master + MASTER_STATUS, CLEAR);
    out32(master + MASTER_TABLE, (u32)(word)table);
    begin_transfer();
    polled(begun, rounds, go_on);
    return transfers;
}

static u32 images(u32 rounds) { return image(rounds, READ_DMA); }
static u32 writes(u32 rounds) { return image(rounds, WRITE_DMA); }

static void set_dispi(u16 number, u16 value)
{
    out16(0x1CE, number);
    out16(0x1CF, value);
}

/* Maps the frame buffer of the VGA on PCI, wherever it is below 4 GiB; in large pages of 2 MiB. */
static u32 *frame_buffer(void)
{
    for (u32 device = 0; device < 32; device++) {
        u32 function = 0x80000000 | device << 11;
        out32(0xCF8, function | 8);
        if (in32(0xCFC) >> 16 != 0x0300) {
            continue;
        }
        out32(0xCF8, function | 4);
        out32(0xCFC, in32(0xCFC) | 2);
        out32(0xCF8, function | 0x10);
        u64 base = in32(0xCFC) & ~15u;
        for (u64 page = 0; page < FRAME_PAGES; page++) {
            frame_tables[(base >> 21 & 511) + page] = (base + (page << 21)) | 0x87;
        }
        pointers[base >> 30] = (word)frame_tables | 7;
        __asm__ volatile("mov %%cr3, %%rax\n mov %%rax, %%cr3" : : : "rax", "memory");
        return (u32 *)base;
    }
    give_up("no VGA on PCI");
}

static u32 screen(u32 rounds)
{
    u64 begun = clock();
    u32 *pixels = frame_buffer(), seed = 1;
    set_dispi(4, 0);
    set_dispi(1, WIDTH);
    set_dispi(2, HEIGHT);
    set_dispi(3, 32);
    set_dispi(4, 0x41);
    out16(0x3C4, 0x0001); /* the screen on, and the palette's address source */
    in8(0x3DA);
    out8(0x3C0, 0x20);
    for (u32 i = 0; i < WIDTH * HEIGHT; i++) { /* noise, which is the hardest to compress */
        seed = seed * 1664525 + 1013904223;
        pixels[i] = seed >> 8;
    }
    return polled(begun, rounds, nothing);
}

static void send(void)
{
    static const u8 text[32];
    const u8 *at = text;
    word count = sizeof text;
    __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"((u16)COM2) : "memory");
}

static u32 characters(u32 rounds) { return polled(clock(), rounds, send); }

const struct work works[] = {
    {"busy", busy, 0},
    {"halted", halted, 0},
    {"alone", alone, 10000},
    {"images", images, 30000},
    {"writes", writes, 30000},
    {"screen", screen, 100000},
    {"characters", characters, 10000},
    {"hog", hog, 1},
    {0},
};

void prepare(void)
{
    set_up_interrupts();
    set_gate(PROBE_VECTOR, answer_probe);
}
