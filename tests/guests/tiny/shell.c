/* The line that is typed, and the commands. */
#include "tiny.h"

#define MULTIBOOT 0x2BADB002
#define LINE 2048
#define WORDS 4

/* Multiboot 0.6.96, section 3.3: offsets in the information structure. */
enum { FLAGS = 0, CMDLINE = 16, MAP_LENGTH = 44, MAP_ADDRESS = 48 };

struct command {
    const char *name;
    unsigned arguments;
    void (*run)(const uint32_t *values);
    const char *help;
};

static char line[LINE];
static unsigned length;
static const uint8_t *information;

static uint32_t word_at(uint32_t address)
{
    return *(const volatile uint32_t *)address;
}

static uint32_t field(unsigned offset)
{
    return word_at((uint32_t)information + offset);
}

static void prompt(void)
{
    print("tiny> ");
}

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static bool parse(const char *text, uint32_t *value)
{
    uint32_t base = 10;
    if (text[0] == '0' && text[1] == 'x')
        base = 16, text += 2;
    if (!*text)
        return false;
    for (*value = 0; *text; text++) {
        uint32_t digit = *text >= 'a' ? *text - 'a' + 10u : *text >= 'A' ? *text - 'A' + 10u : *text - '0' + 0u;
        if (digit >= base)
            return false;
        *value = *value * base + digit;
    }
    return true;
}

static void run_uptime(const uint32_t *values)
{
    uint32_t now = ticks;
    (void)values;
    print("%u.%c%c\n", now / HZ, '0' + now / 10 % 10, '0' + now % 10);
}

static void run_mem(const uint32_t *values)
{
    (void)values;
    if (!information || !(field(FLAGS) & 1 << 6)) {
        print("no memory map\n");
        return;
    }
    uint32_t at = field(MAP_ADDRESS), end = at + field(MAP_LENGTH);
    for (; at < end; at += word_at(at) + 4)
        print("0x%x%x + 0x%x%x type %u\n", word_at(at + 8), word_at(at + 4), word_at(at + 16), word_at(at + 12),
              word_at(at + 20));
}

static void run_cmdline(const uint32_t *values)
{
    (void)values;
    bool given = information && field(FLAGS) & 1 << 2;
    print("%s\n", given ? (const char *)field(CMDLINE) : "");
}

static void run_in(const uint32_t *values)
{
    print("0x%b\n", in8(values[0]));
}

static void run_inw(const uint32_t *values)
{
    print("0x%x\n", in16(values[0]));
}

static void run_inl(const uint32_t *values)
{
    print("0x%x\n", in32(values[0]));
}

static void run_out(const uint32_t *values)
{
    out8(values[0], values[1]);
}

static void run_outw(const uint32_t *values)
{
    out16(values[0], values[1]);
}

static void run_outl(const uint32_t *values)
{
    out32(values[0], values[1]);
}

static void run_peek(const uint32_t *values)
{
    print("0x%x\n", word_at(values[0]));
}

static void run_poke(const uint32_t *values)
{
    *(volatile uint32_t *)values[0] = values[1];
}

static void run_peekb(const uint32_t *values)
{
    print("0x%b\n", *(const volatile uint8_t *)values[0]);
}

static void run_pokeb(const uint32_t *values)
{
    *(volatile uint8_t *)values[0] = values[1];
}

static void run_irqs(const uint32_t *values)
{
    (void)values;
    for (unsigned number = 0; number < LINES; number++)
        print("%u:%u ", number, counts[number]);
    print("spurious:%u\n", spurious);
}

static void run_mask(const uint32_t *values)
{
    line_mask(values[0] & 15, true);
}

static void run_unmask(const uint32_t *values)
{
    line_mask(values[0] & 15, false);
}

static void run_ack(const uint32_t *values)
{
    acknowledges[values[0] & 15] = (struct acknowledge){READ, values[1], 0};
}

static void run_ackout(const uint32_t *values)
{
    acknowledges[values[0] & 15] = (struct acknowledge){WRITE, values[1], values[2]};
}

static void run_reboot(const uint32_t *values)
{
    (void)values;
    while (in8(0x64) & 2)
        ;
    out8(0x64, 0xFE);
    halt_forever();
}

static void run_reset92(const uint32_t *values)
{
    (void)values;
    out8(0x92, in8(0x92) & 0xFE);
    out8(0x92, in8(0x92) | 1);
    halt_forever();
}

static void run_resetcf9(const uint32_t *values)
{
    (void)values;
    out8(0xCF9, 0x02);
    out8(0xCF9, 0x06);
    halt_forever();
}

static void run_crash(const uint32_t *values)
{
    static const uint8_t nothing[6];
    (void)values;
    __asm__ volatile("lidt %0; int3" : : "m"(nothing));
}

static void run_poweroff(const uint32_t *values)
{
    out8(0xF4, values[0]);
    print("nothing at port 0xF4\n");
}

static void run_halt(const uint32_t *values)
{
    (void)values;
    print("halted\n");
    halt_forever();
}

static void run_help(const uint32_t *values);

static const struct command commands[] = {
    {"help", 0, run_help, ""},
    {"uptime", 0, run_uptime, ""},
    {"mem", 0, run_mem, ""},
    {"cmdline", 0, run_cmdline, ""},
    {"in", 1, run_in, " PORT"},
    {"inw", 1, run_inw, " PORT"},
    {"inl", 1, run_inl, " PORT"},
    {"out", 2, run_out, " PORT VALUE"},
    {"outw", 2, run_outw, " PORT VALUE"},
    {"outl", 2, run_outl, " PORT VALUE"},
    {"peek", 1, run_peek, " ADDRESS"},
    {"poke", 2, run_poke, " ADDRESS VALUE"},
    {"peekb", 1, run_peekb, " ADDRESS"},
    {"pokeb", 2, run_pokeb, " ADDRESS VALUE"},
    {"irqs", 0, run_irqs, ""},
    {"mask", 1, run_mask, " LINE"},
    {"unmask", 1, run_unmask, " LINE"},
    {"ack", 2, run_ack, " LINE PORT"},
    {"ackout", 3, run_ackout, " LINE PORT VALUE"},
    {"reboot", 0, run_reboot, ""},
    {"reset92", 0, run_reset92, ""},
    {"resetcf9", 0, run_resetcf9, ""},
    {"crash", 0, run_crash, ""},
    {"poweroff", 1, run_poweroff, " CODE"},
    {"halt", 0, run_halt, ""},
};

#define COMMANDS (sizeof commands / sizeof commands[0])

static void run_help(const uint32_t *values)
{
    (void)values;
    print("echo TEXT\n");
    for (unsigned number = 0; number < COMMANDS; number++)
        print("%s%s\n", commands[number].name, commands[number].help);
}

static unsigned split(char *text, char **words)
{
    unsigned count = 0;
    for (;;) {
        while (*text == ' ')
            *text++ = 0;
        if (!*text)
            return count;
        if (count < WORDS + 1)
            words[count++] = text;
        while (*text && *text != ' ')
            text++;
    }
}

static void run_words(char **words, unsigned count)
{
    uint32_t values[WORDS] = {0};
    for (unsigned number = 0; number < COMMANDS; number++) {
        const struct command *command = &commands[number];
        if (!same(words[0], command->name))
            continue;
        bool valid = count == command->arguments + 1;
        for (unsigned word = 1; valid && word < count; word++)
            valid = parse(words[word], &values[word - 1]);
        if (valid)
            command->run(values);
        else
            print("usage: %s%s\n", command->name, command->help);
        return;
    }
    print("unknown command: %s\n", words[0]);
}

static void run_line(void)
{
    char *words[WORDS + 1], *text = line;
    line[length] = 0;
    length = 0;
    if (text[0] == 'e' && text[1] == 'c' && text[2] == 'h' && text[3] == 'o' && (text[4] == ' ' || !text[4])) {
        print("%s\n", text[4] ? text + 5 : "");
        return;
    }
    unsigned count = split(text, words);
    if (count)
        run_words(words, count);
}

void shell_init(uint32_t magic, const uint8_t *given)
{
    information = magic == MULTIBOOT ? given : NULL;
    print("\ntiny guest, loaded %s; try help\n", information ? "by multiboot" : "in a way unknown");
    prompt();
}

void shell_feed(char character)
{
    if (character == '\r' || character == '\n') {
        put('\n');
        run_line();
        prompt();
    } else if ((character == 8 || character == 127) && length) {
        length--;
        print("%c %c", 8, 8);
    } else if ((uint8_t)character >= ' ' && character != 127 && length < LINE - 1) {
        line[length++] = character;
        put(character);
    }
}
