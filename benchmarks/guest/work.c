/* A guest's run: the works that its command line names, else all of them. */
#include "work.h"

u32 operations, share;

enum { LINE_STATUS = COM1 + 5, HOLDING_EMPTY = 0x20 };

static void set_up_line(void)
{
    out8(COM1 + 3, 0x80);
    out8(COM1, 1); /* 115,200 baud, 8 bits */
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 3);
}

static void put(char c)
{
    while (!(in8(LINE_STATUS) & HOLDING_EMPTY)) {
    }
    out8(COM1, (u8)c);
}

void say(const char *text)
{
    while (*text) {
        put(*text++);
    }
}

static void say_number(u32 value)
{
    put(' ');
    for (int shift = 28; shift >= 0; shift -= 4) {
        put("0123456789abcdef"[value >> shift & 15]);
    }
}

void give_up(const char *why)
{
    say("STOP ");
    say(why);
    put('\n');
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

/* Whether `name` is a word of the line. */
static int named(const char *line, const char *name)
{
    while (*line) {
        const char *at = name;
        while (*line == ' ') {
            line++;
        }
        while (*at && *line == *at) {
            line++;
            at++;
        }
        if (!*at && (!*line || *line == ' ')) {
            return 1;
        }
        while (*line && *line != ' ') {
            line++;
        }
    }
    return 0;
}

void run(const char *line)
{
    int chosen = 0;
    set_up_line();
    for (const struct work *work = works; work->name; work++) {
        chosen |= named(line, work->name);
    }
    prepare();
    for (const struct work *work = works; work->name; work++) {
        if (chosen && !named(line, work->name)) {
            continue;
        }
        operations = work->rounds;
        share = WHOLE;
        say("B ");
        say(work->name);
        put('\n');
        u32 result = work->run(work->rounds);
        say("E ");
        say(work->name);
        say_number(result);
        say_number(operations);
        say_number(share);
        put('\n');
    }
    say("END\n");
}
