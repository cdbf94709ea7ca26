/* A driver for the copy engine in user space, and a test of the engine by it.
 *
 *     copyengine FUNCTION UIO
 *
 * FUNCTION is the folder of the PCI function in sysfs, UIO the file that uio_pci_generic made for it
 * (/dev/uio0).  Runs as root: it maps the registers, writes configuration space, and learns physical
 * addresses from /proc/self/pagemap.  The memory for DMA is a huge page, which is contiguous, locked, and
 * never moved.  Prints a line for each step, and "copyengine: passed" at the end; the exit code is 1 when
 * something is not as it should be.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ID = 0x00, STATUS = 0x04, COMMAND = 0x08, ENABLE = 0x0C, SOURCE = 0x10, DESTINATION = 0x18,
       LENGTH = 0x20, FILL = 0x24, POSITION = 0x28, RESULT = 0x2C };
enum { DONE = 0x02, ERROR = 0x04, CAUSE_SHIFT = 4 };
enum { COPY_ = 1, FILL_, SUM_ };
enum { CAUSE_COMMAND, CAUSE_ADDRESS, CAUSE_MASTER };

enum { PCI_COMMAND = 0x04, PCI_MEMORY = 0x0002, PCI_MASTER = 0x0004, PCI_INTX_OFF = 0x0400 };
enum { HUGE_PAGE = 2 << 20, HALF = HUGE_PAGE / 2 };
enum { PATIENCE = 30 * 1000 }; /* ms; it ends a test that hangs, and times nothing */

static volatile uint8_t *registers;
static int config, interrupts, operations;

static void fail(const char *format, ...)
{
    va_list words;

    va_start(words, format);
    printf("copyengine: ");
    vprintf(format, words);
    printf("\n");
    exit(1);
}

static void check(int holds, const char *what)
{
    if (!holds)
        fail("%s: %m", what);
}

static uint32_t get(int at)
{
    return *(volatile uint32_t *)(registers + at);
}

static void set(int at, uint32_t value)
{
    *(volatile uint32_t *)(registers + at) = value;
}

static void set64(int at, uint64_t value)
{
    *(volatile uint64_t *)(registers + at) = value;
}

/* Switch bits of the PCI command register. */
static void command_register(int on, int off)
{
    uint16_t value;

    check(pread(config, &value, 2, PCI_COMMAND) == 2, "reading configuration space");
    value = (value | on) & ~off;
    check(pwrite(config, &value, 2, PCI_COMMAND) == 2, "writing configuration space");
}

/* Where a locked page is in the memory of the machine. */
static uint64_t physical(const void *page)
{
    int file = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry;

    check(file >= 0, "/proc/self/pagemap");
    check(pread(file, &entry, 8, (uintptr_t)page / 4096 * 8) == 8, "reading pagemap");
    close(file);
    if (!(entry >> 63) || !(entry & ((1ULL << 55) - 1)))
        fail("pagemap does not say where %p is", page);
    return (entry & ((1ULL << 55) - 1)) * 4096;
}

static uint8_t *huge_page(void)
{
    FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");
    void *page;

    check(file != NULL && fputs("1", file) > 0 && fclose(file) == 0, "/proc/sys/vm/nr_hugepages");
    page = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_LOCKED | MAP_POPULATE, -1, 0);
    check(page != MAP_FAILED, "mapping a huge page");
    return page;
}

/* Start an operation; its end is told by an interrupt, which the kernel counts.  Returns STATUS. */
static uint32_t run(int command, uint64_t source, uint64_t destination, uint32_t length)
{
    static uint32_t expected;
    struct pollfd wait = { .fd = interrupts, .events = POLLIN };
    uint32_t counted, status;

    set64(SOURCE, source);
    set64(DESTINATION, destination);
    set(LENGTH, length);
    set(COMMAND, command);
    check(poll(&wait, 1, PATIENCE) == 1, "no interrupt");
    check(read(interrupts, &counted, 4) == 4, "reading the count of interrupts");
    if (expected && counted != expected)
        fail("the kernel counts %u interrupts, and there were %u", counted, expected);
    expected = counted + 1;
    operations++;
    status = get(STATUS);
    /* The kernel has masked the pin, because it cannot know how to make the device lower it. */
    set(STATUS, DONE | ERROR);
    command_register(0, PCI_INTX_OFF);
    return status;
}

static void expect(const char *what, uint32_t found, uint32_t wanted)
{
    if (found != wanted)
        fail("%s is %#x, expected %#x", what, found, wanted);
}

static uint32_t crc32(const uint8_t *bytes, size_t length)
{
    uint32_t crc = ~0U;

    while (length--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320 & -(crc & 1));
    }
    return ~crc;
}

int main(int count, char **words)
{
    char path[256];
    uint8_t *page, *target;
    uint64_t here, there;
    int file;

    if (count != 3) {
        fprintf(stderr, "usage: copyengine FUNCTION UIO\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/resource0", words[1]);
    file = open(path, O_RDWR | O_SYNC);
    check(file >= 0, path);
    registers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    check(registers != MAP_FAILED, "mapping the registers");
    snprintf(path, sizeof path, "%s/config", words[1]);
    config = open(path, O_RDWR);
    check(config >= 0, path);
    interrupts = open(words[2], O_RDWR);
    check(interrupts >= 0, words[2]);

    expect("ID", get(ID), 0x31454356);
    page = huge_page();
    target = page + HALF;
    here = physical(page);
    there = here + HALF;
    for (int at = 0; at < HALF; at++)
        page[at] = at * 2654435761U >> 24;
    command_register(PCI_MEMORY | PCI_MASTER, PCI_INTX_OFF);
    set(ENABLE, 1);

    expect("STATUS after COPY", run(COPY_, here + 3, there + 5, 100001), DONE);
    check(!memcmp(page + 3, target + 5, 100001) && !target[4] && !target[100006], "the copy is wrong");
    printf("copied 100001 bytes\n");

    set(FILL, 0x5A);
    expect("STATUS after FILL", run(FILL_, 0, there + 10000, 20000), DONE);
    for (int at = 0; at < 20000; at++)
        check(target[10000 + at] == 0x5A, "the fill is wrong");
    check(!memcmp(page + 3, target + 5, 9995) && target[30000] == page[29998], "the fill is too long");
    printf("filled 20000 bytes\n");

    expect("STATUS after SUM", run(SUM_, there, 0, 65537), DONE);
    expect("RESULT", get(RESULT), crc32(target, 65537));
    printf("summed 65537 bytes: %08x\n", get(RESULT));

    expect("STATUS after an address without RAM", run(COPY_, here, 1ULL << 40, 4096),
           ERROR | CAUSE_ADDRESS << CAUSE_SHIFT);
    expect("POSITION after it", get(POSITION), 0);
    printf("refused an address without RAM\n");

    command_register(0, PCI_MASTER);
    expect("STATUS without bus mastering", run(FILL_, 0, there, 4096), ERROR | CAUSE_MASTER << CAUSE_SHIFT);
    check(!memcmp(page + 3, target + 5, 4000), "memory was written without bus mastering");
    command_register(PCI_MASTER, 0);
    printf("moved nothing without bus mastering\n");

    expect("STATUS after an unknown command", run(77, 0, 0, 0), ERROR | CAUSE_COMMAND << CAUSE_SHIFT);
    set(ENABLE, 0);
    printf("copyengine: %d operations were ended by an interrupt each\n", operations);
    printf("copyengine: passed\n");
    return 0;
}
