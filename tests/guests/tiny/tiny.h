/* What the files of the tiny guest share. */
#ifndef TINY_H
#define TINY_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HZ 100
#define LINES 16
#define SERIAL_LINE 4

/* As pushed by start.S and the CPU. */
struct frame {
    uint32_t cr2;
    uint32_t edi, esi, ebp, esp, ebx, edx, ecx, eax;
    uint32_t vector, error;
    uint32_t eip, cs, eflags;
};

/* What an interrupt of a line does to a port, so that the device lets go of the line. */
struct acknowledge {
    enum { NOTHING, READ, WRITE } action;
    uint16_t port;
    uint8_t value;
};

/* interrupts.c */
extern volatile uint32_t ticks;
extern volatile uint32_t counts[LINES];
extern volatile uint32_t spurious;
extern struct acknowledge acknowledges[LINES];
void interrupts_init(void);
void line_mask(unsigned line, bool masked);

/* serial.c */
void serial_init(void);
void serial_interrupt(void);
int serial_take(void); /* the next character typed, or -1 */
void put(char character);
void print(const char *format, ...); /* %s %c %u %x (8 digits) %b (2 digits) */

/* shell.c */
void shell_init(uint32_t magic, const uint8_t *information);
void shell_feed(char character);

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void halt_forever(void)
{
    for (;;)
        __asm__ volatile("cli; hlt");
}

#endif
