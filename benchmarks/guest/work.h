/* What the benchmark guests share.  A guest is a list of works.  It says "B name" before and
 * "E name result operations share" behind each on COM1, the numbers in hexadecimal; the host takes the time. */
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;
typedef __UINTPTR_TYPE__ word;

enum { COM1 = 0x3F8, WHOLE = 1 << 16 };

struct work {
    const char *name;
    u32 (*run)(u32 rounds);
    u32 rounds;
};

extern const struct work works[]; /* the last has no name */
extern u32 operations;            /* how many a work did; its rounds, if it does not say */
extern u32 share;                 /* the part of the time that counts, in 65536ths; all, if it does not say */

void prepare(void); /* once, before all */
void say(const char *text);
void __attribute__((noreturn)) give_up(const char *why);

static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 in32(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void out8(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out16(u16 port, u16 value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline u64 clock(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}
