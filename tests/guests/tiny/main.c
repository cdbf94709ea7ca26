/* The tiny guest: see README.md. */
#include "tiny.h"

/* gcc may call these for structures that it copies or clears. */
void *memcpy(void *to, const void *from, size_t size)
{
    for (size_t index = 0; index < size; index++)
        ((volatile uint8_t *)to)[index] = ((const uint8_t *)from)[index];
    return to;
}

void *memset(void *to, int value, size_t size)
{
    for (size_t index = 0; index < size; index++)
        ((volatile uint8_t *)to)[index] = value;
    return to;
}

void tiny_main(uint32_t magic, const uint8_t *information)
{
    serial_init();
    interrupts_init();
    shell_init(magic, information);
    for (;;) {
        int character;
        __asm__ volatile("cli");
        character = serial_take();
        if (character < 0) {
            __asm__ volatile("sti; hlt"); /* STI holds interrupts off until HLT waits for them */
            continue;
        }
        __asm__ volatile("sti");
        shell_feed(character);
    }
}
