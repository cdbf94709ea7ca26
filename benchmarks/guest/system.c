/* What a system does besides computing: exceptions, address spaces, new code, interrupts, and accesses to
 * devices.  Each work answers something that its operations came to, for the eye; numbers of operations and
 * shares are for the host. */
#include "machine.h"

enum { UNMAPPED = 0x8000000, PAGE = 4096, COM2 = 0x2F8, ATA_DATA = 0x1F0, WINDOW = 0xA0000 };
enum { BLOCK = 64, BLOCKS_IN_PAGE = PAGE / BLOCK, COLD_PAGES = 1024 };
enum { CLOCKS_100HZ = 11932, CLOCKS_1000HZ = 1193 };
enum { COM2_VECTOR = PIC_FIRST + 3 };

extern word directory[PAGE / sizeof(word)];
extern const char answer_int[], answer_fault[], answer_uart[];

static word other_directory[PAGE / sizeof(word)] __attribute__((aligned(PAGE)));
static u8 code[COLD_PAGES][PAGE] __attribute__((aligned(PAGE)));
static u8 page[8][PAGE] __attribute__((aligned(PAGE)));
static u16 sector[SECTOR / 2];

#ifdef __x86_64__
#define IRET "iretq\n"
#define SKIP "add $8, %rsp\naddq $2, (%rsp)\n"
#define PUSH "push %rax\npush %rdx\n"
#define POP "pop %rdx\npop %rax\n"
#else
#define IRET "iret\n"
#define SKIP "add $4, %esp\naddl $2, (%esp)\n"
#define PUSH "push %eax\npush %edx\n"
#define POP "pop %edx\npop %eax\n"
#endif
/* The access that faults has two bytes: its handler goes on behind it.  The third one takes the interrupt of
 * an empty transmitter: reading what it is about ends it. */
__asm__("answer_int: " IRET
        "answer_fault: " SKIP IRET
        "answer_uart: " PUSH
        "mov $0x2FA, %edx\n"
        "in %dx, %al\n"
        "incl interrupts\n"
        "mov $0x20, %al\n"
        "out %al, $0x20\n" POP IRET);

static u32 int_iret(u32 rounds)
{
    __asm__ volatile("1: int $0x80\n decl %0\n jnz 1b" : "+r"(rounds) : : "memory");
    return rounds;
}

static u32 fault_iret(u32 rounds)
{
    __asm__ volatile("1: movb (%1), %%al\n decl %0\n jnz 1b" : "+r"(rounds) : "a"((word)UNMAPPED) : "memory");
    return rounds;
}

static u32 switches(u32 rounds)
{
    word spaces[2] = {(word)directory, (word)other_directory};
    u32 sum = 0;
    for (u32 i = 0; i < PAGE / sizeof(word); i++) {
        other_directory[i] = directory[i];
    }
    for (u32 i = 0; i < rounds; i++) {
        __asm__ volatile("mov %0, %%cr3" : : "r"(spaces[i & 1]) : "memory");
        for (u32 at = 0; at < 8; at++) {
            sum += *(volatile u8 *)page[at];
        }
    }
    return sum;
}

/* A page of code in blocks that jump to the next; the last returns. */
enum { INSTRUCTIONS_IN_BLOCK = 10 };

static void write_code(u8 *to, u32 seed)
{
    static const u8 model[] = {
        0xB8, 0, 0, 0, 0,       /* mov $seed, %eax */
        0x01, 0xC1,             /* add %eax, %ecx */
        0x31, 0xCA,             /* xor %ecx, %edx */
        0xC1, 0xC2, 0x07,       /* rol $7, %edx */
        0x29, 0xD0,             /* sub %edx, %eax */
        0x0F, 0xAF, 0xC8,       /* imul %eax, %ecx */
        0x85, 0xC0,             /* test %eax, %eax */
        0x74, 0x00,             /* jz to the next one */
        0x81, 0xC2, 1, 2, 3, 4, /* add $0x04030201, %edx */
    };
    for (u32 block = 0; block < BLOCKS_IN_PAGE; block++, to += BLOCK) {
        for (u32 i = 0; i < sizeof model; i++) {
            to[i] = model[i];
        }
        *(u32 *)(to + 1) = seed + block;
        if (block < BLOCKS_IN_PAGE - 1) {
            to[sizeof model] = 0xEB; /* jmp to the next block */
            to[sizeof model + 1] = BLOCK - sizeof model - 2;
        } else {
            to[sizeof model] = 0xC3;
        }
    }
}

static u32 execute(const u8 *from)
{
    u32 a, c = 1, d = 2;
    __asm__ volatile("call *%3" : "=&a"(a), "+c"(c), "+d"(d) : "r"((word)from) : "memory", "cc");
    return a ^ c ^ d;
}

static u32 cold(u32 rounds)
{
    u32 sum = 0;
    for (u32 i = 0; i < rounds; i++) {
        write_code(code[i], i);
        sum += execute(code[i]);
    }
    operations = rounds * BLOCKS_IN_PAGE * INSTRUCTIONS_IN_BLOCK;
    return sum;
}

static u32 rewritten(u32 rounds)
{
    u32 sum = 0;
    for (u32 i = 0; i < rounds; i++) {
        write_code(code[0], i);
        sum += execute(code[0]);
    }
    operations = rounds * BLOCKS_IN_PAGE * INSTRUCTIONS_IN_BLOCK;
    return sum;
}

/* The same computation beside a clock; the answer is the number of ticks. */
static u32 compute(u32 rounds, u32 divisor)
{
    u32 a = 1, b = 2, c = 3, before = interrupts;
    if (divisor) {
        set_clock(divisor);
        out8(PIC_MASK, (u8)~1);
        __asm__ volatile("sti");
    }
    for (u32 i = 0; i < rounds * 1000000; i++) {
        a = a * 1664525 + b;
        b ^= a >> 7;
        c += (a & b) | (c << 3);
    }
    __asm__ volatile("cli" : : "r"(a ^ b ^ c));
    out8(PIC_MASK, ALL_MASKED);
    stop_clock();
    return interrupts - before;
}

static u32 masked(u32 rounds) { return compute(rounds, 0); }
static u32 tick100(u32 rounds) { return compute(rounds, CLOCKS_100HZ); }
static u32 tick1000(u32 rounds) { return compute(rounds, CLOCKS_1000HZ); }

/* An interrupt that the guest asks for: out, out, delivery, in, out, iret. */
static u32 uart_irq(u32 rounds)
{
    u32 before = interrupts;
    out8(COM2 + 4, 8); /* OUT2 lets the line through */
    out8(PIC_MASK, (u8)~8);
    __asm__ volatile("sti");
    for (u32 i = 0; i < rounds; i++) {
        u32 seen = interrupts, patience = 1000000;
        out8(COM2 + 1, 0);
        out8(COM2 + 1, 2);
        while (interrupts == seen && --patience) {
        }
        if (!patience) {
            operations = 0;
            break;
        }
    }
    __asm__ volatile("cli");
    out8(COM2 + 1, 0);
    out8(PIC_MASK, ALL_MASKED);
    return interrupts - before;
}

#define LOOP(body, ...)                                                                        \
    ({                                                                                         \
        u32 value_ = 0;                                                                        \
        __asm__ volatile("1: " body "\n decl %%ecx\n jnz 1b" : "+a"(value_), "+c"(rounds) : __VA_ARGS__ : "memory"); \
        value_;                                                                                \
    })

static u32 read_port(u16 port, u32 rounds) { return LOOP("inb %%dx, %%al", "d"(port)); }

static u32 uart_lsr(u32 rounds) { return read_port(COM1 + 5, rounds); }
static u32 pic_mask(u32 rounds) { return read_port(PIC_MASK, rounds); }
static u32 kbc_status(u32 rounds) { return read_port(0x64, rounds); }
static u32 ide_status(u32 rounds) { return read_port(0x3F6, rounds); }
static u32 vga_status(u32 rounds) { return read_port(0x3DA, rounds); }
static u32 pit_refresh(u32 rounds) { return read_port(0x61, rounds); }
static u32 nobody(u32 rounds) { return read_port(0x2A0, rounds); }

static u32 pit_count(u32 rounds)
{
    set_clock(CLOCKS_1000HZ);
    return read_port(0x40, rounds);
}

static u32 pci_config(u32 rounds)
{
    out32(0xCF8, 0x80000000);
    return LOOP("inl %%dx, %%eax", "d"((u16)0xCFC));
}

static u32 rtc_status(u32 rounds)
{
    out8(0x70, 0x0A);
    return read_port(0x71, rounds);
}

static u32 cmos(u32 rounds)
{
    out8(0x70, 0x10);
    return read_port(0x71, rounds);
}

static u32 post_code(u32 rounds) { return LOOP("outb %%al, %%dx", "d"((u16)0x80)); }

/* VGA memory where four planes lie behind an address: nobody can map that. */
static void planar(void)
{
    out8(0x3C2, 0x63);
    out16(0x3C4, 0x0F02);
    out16(0x3C4, 0x0604);
    out16(0x3CE, 0x0001);
    out16(0x3CE, 0x0003);
    out16(0x3CE, 0x0005);
    out16(0x3CE, 0x0506);
    out16(0x3CE, 0xFF08);
}

static u32 vga_load(u32 rounds)
{
    planar();
    return LOOP("movb (%2), %%al", "d"((word)WINDOW));
}

static u32 vga_store(u32 rounds)
{
    planar();
    return LOOP("movb %%al, (%2)", "d"((word)WINDOW));
}

/* Sectors by PIO; the share is that of REP INSW and REP OUTSW, without waiting for the disk. */
static u32 sectors(u32 rounds, enum disk_command command)
{
    u64 begun, part = 0;
    if (!disk_ready()) {
        operations = 0;
        return 0;
    }
    begun = clock();
    for (u32 i = 0; i < rounds; i++) {
        disk_command(command, i * SECTORS_AT_ONCE);
        for (u32 each = 0; each < SECTORS_AT_ONCE; each++) {
            word count = SECTOR / 2;
            u16 *at = sector;
            if (!disk_wait()) {
                give_up("the disk has no data");
            }
            u64 before = clock();
            if (command == READ_SECTORS) {
                __asm__ volatile("rep insw" : "+D"(at), "+c"(count) : "d"(ATA_DATA) : "memory");
            } else {
                __asm__ volatile("rep outsw" : "+S"(at), "+c"(count) : "d"(ATA_DATA) : "memory");
            }
            part += clock() - before;
        }
        disk_wait();
    }
    u64 all = clock() - begun;
    while (all >> 16) {
        all >>= 1;
        part >>= 1;
    }
    share = (u32)part * WHOLE / (u32)all;
    operations = rounds * SECTORS_AT_ONCE;
    return sector[0];
}

static u32 insw(u32 rounds) { return sectors(rounds, READ_SECTORS); }
static u32 outsw(u32 rounds) { return sectors(rounds, WRITE_SECTORS); }

static u32 outsb(u32 rounds)
{
    for (u32 i = 0; i < rounds; i++) {
        word count = SECTOR;
        const u16 *at = sector;
        __asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"((u16)COM2) : "memory");
    }
    operations = rounds * SECTOR;
    return 0;
}

const struct work works[] = {
    {"int", int_iret, 1000000},
    {"fault", fault_iret, 1000000},
    {"switch", switches, 500000},
    {"cold", cold, COLD_PAGES},
    {"rewritten", rewritten, 1000},
    /* Short and by turns: what the host does meanwhile is to concern all three. */
#define BESIDE_CLOCKS          \
    {"masked", masked, 40},    \
    {"tick100", tick100, 40},  \
    {"tick1000", tick1000, 40},
    BESIDE_CLOCKS BESIDE_CLOCKS BESIDE_CLOCKS BESIDE_CLOCKS BESIDE_CLOCKS
    BESIDE_CLOCKS BESIDE_CLOCKS BESIDE_CLOCKS BESIDE_CLOCKS BESIDE_CLOCKS
    BESIDE_CLOCKS
    {"irq", uart_irq, 100000},
    {"nobody", nobody, 2000000},
    {"uart", uart_lsr, 1000000},
    {"pic", pic_mask, 1000000},
    {"pci", pci_config, 1000000},
    {"cmos", cmos, 1000000},
    {"rtc", rtc_status, 1000000},
    {"pit", pit_count, 500000},
    {"port61", pit_refresh, 500000},
    {"kbc", kbc_status, 1000000},
    {"ide", ide_status, 1000000},
    {"vga", vga_status, 500000},
    {"post", post_code, 1000000},
    {"vga-load", vga_load, 500000},
    {"vga-store", vga_store, 500000},
    {"insw", insw, 128},
    {"outsw", outsw, 128},
    {"outsb", outsb, 400},
    {0},
};

void prepare(void)
{
    set_up_interrupts();
    set_gate(0x80, answer_int);
    set_gate(14, answer_fault);
    set_gate(PIC_FIRST, tick);
    set_gate(COM2_VECTOR, answer_uart);
}
