/* COM1: output by polling, input by interrupt into a ring. */
#include "tiny.h"

#define COM1 0x3F8
#define LSR (COM1 + 5)
#define RING 8192

static volatile char ring[RING];
static volatile unsigned head, tail;

void serial_init(void)
{
    out8(COM1 + 1, 0x00);
    out8(COM1 + 3, 0x80); /* the divisor's latches */
    out8(COM1 + 0, 1);    /* 115,200 baud */
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 0x03); /* 8N1 */
    out8(COM1 + 2, 0x87); /* FIFOs on and empty, interrupt at 8 bytes or when they wait */
    out8(COM1 + 4, 0x0B); /* DTR, RTS, and OUT2, which lets the interrupt through */
    out8(COM1 + 1, 0x01); /* received data */
}

void serial_interrupt(void)
{
    /* Until it has nothing more to report: the line is an edge for the PIC. */
    while (!(in8(COM1 + 2) & 1)) {
        while (in8(LSR) & 1) {
            char character = in8(COM1);
            if (head - tail < RING)
                ring[head++ % RING] = character;
        }
        in8(COM1 + 6);
    }
}

int serial_take(void)
{
    if (head == tail)
        return -1;
    return (uint8_t)ring[tail++ % RING];
}

void put(char character)
{
    if (character == '\n')
        put('\r');
    while (!(in8(LSR) & 0x20))
        ;
    out8(COM1, character);
}

static void print_hex(uint32_t value, unsigned digits)
{
    while (digits--)
        put("0123456789abcdef"[value >> 4 * digits & 15]);
}

static void print_decimal(uint32_t value)
{
    if (value >= 10)
        print_decimal(value / 10);
    put('0' + value % 10);
}

void print(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *text = va_arg(arguments, const char *); *text; text++)
                put(*text);
            break;
        case 'c':
            put(va_arg(arguments, int));
            break;
        case 'u':
            print_decimal(va_arg(arguments, uint32_t));
            break;
        case 'x':
            print_hex(va_arg(arguments, uint32_t), 8);
            break;
        case 'b':
            print_hex(va_arg(arguments, uint32_t), 2);
            break;
        }
    }
    va_end(arguments);
}
