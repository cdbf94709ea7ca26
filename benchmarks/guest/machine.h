/* Interrupts, clock and disk of a PC, for guests that need them. */
#include "work.h"

enum {
    PIC_FIRST = 0x20, /* vector of IRQ 0 */
    PIC_MASK = 0x21,
    PIC_MASK2 = 0xA1,
    ALL_MASKED = 0xFF,
    SECTOR = 512,
    SECTORS_AT_ONCE = 256,
};

enum disk_command { READ_SECTORS = 0x20, WRITE_SECTORS = 0x30, READ_DMA = 0xC8, WRITE_DMA = 0xCA };

extern volatile u32 interrupts;       /* how many `tick` has taken */
extern const char tick[];             /* a handler: counts, and ends IRQ 0..7 */

void set_gate(unsigned vector, const void *handler);
void set_up_interrupts(void);         /* an IDT whose gates give up, both PICs with all lines masked */
void set_clock(u32 divisor);          /* the period of IRQ 0, in clocks of the PIT */
void stop_clock(void);
int disk_ready(void);                 /* whether the primary channel has an ATA disk */
void disk_command(enum disk_command command, u32 sector); /* for SECTORS_AT_ONCE sectors, without interrupt */
int disk_wait(void);                  /* until it is not busy; whether it wants data to be moved */
