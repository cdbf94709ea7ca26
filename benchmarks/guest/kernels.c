/* CPU-bound kernels.  Each takes a number of rounds and answers what it computed, so that nothing of it can be
 * left out. */
#include "work.h"

enum { SIZE = 1 << 16 };

static u32 words[SIZE], other[SIZE];
static u8 bytes[SIZE];
static double cells[3][64][64];

static u32 random_from(u32 *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    return *seed ^= *seed << 5;
}

static u32 arithmetic(u32 rounds)
{
    u32 a = 1, b = 2, c = 3;
    for (u32 i = 0; i < rounds * 1000000; i++) {
        a = a * 1664525 + b;
        b ^= a >> 7;
        c += (a & b) | (c << 3);
    }
    return a ^ b ^ c;
}

static u32 division(u32 rounds)
{
    u32 sum = 0, x = 0x12345678;
    for (u32 i = 1; i < rounds * 200000; i++) {
        sum += x / (i | 1) + x % (i + 7);
        x += 0x9E3779B9;
    }
    return sum;
}

static u32 sieve(u32 rounds)
{
    u32 found = 0;
    while (rounds--) {
        for (u32 i = 2; i < SIZE; i++) {
            bytes[i] = 1;
        }
        for (u32 i = 2; i * i < SIZE; i++) {
            if (bytes[i]) {
                for (u32 j = i * i; j < SIZE; j += i) {
                    bytes[j] = 0;
                }
            }
        }
        for (u32 i = 2; i < SIZE; i++) {
            found += bytes[i];
        }
    }
    return found;
}

static void quicksort(u32 *from, u32 *to)
{
    while (to - from > 1) {
        u32 pivot = from[(to - from) / 2], *left = from, *right = to - 1;
        while (left <= right) {
            while (*left < pivot) {
                left++;
            }
            while (*right > pivot) {
                right--;
            }
            if (left <= right) {
                u32 kept = *left;
                *left++ = *right;
                *right-- = kept;
            }
        }
        quicksort(from, right + 1);
        from = left;
    }
}

static u32 sorting(u32 rounds)
{
    u32 seed = 1;
    while (rounds--) {
        for (u32 i = 0; i < SIZE; i++) {
            words[i] = random_from(&seed);
        }
        quicksort(words, words + SIZE);
    }
    return words[SIZE / 2];
}

static u32 chase(u32 rounds)
{
    u32 seed = 7, at = 0;
    for (u32 i = 0; i < SIZE; i++) {
        words[i] = i;
    }
    for (u32 i = SIZE - 1; i > 0; i--) { /* one cycle through all */
        u32 j = random_from(&seed) % i, kept = words[i];
        words[i] = words[j];
        words[j] = kept;
    }
    for (u32 i = 0; i < rounds * 1000000; i++) {
        at = words[at];
    }
    return at;
}

static u32 checksum(u32 rounds)
{
    u32 crc = 0;
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (int k = 0; k < 8; k++) {
            c = c & 1 ? c >> 1 ^ 0xEDB88320 : c >> 1;
        }
        other[i] = c;
        bytes[i] = (u8)i;
    }
    while (rounds--) {
        for (u32 i = 0; i < SIZE; i++) {
            crc = crc >> 8 ^ other[(crc ^ bytes[i]) & 0xFF];
        }
    }
    return crc;
}

static __attribute__((noinline)) u32 fibonacci(u32 n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static u32 calls(u32 rounds)
{
    u32 sum = 0;
    while (rounds--) {
        sum += fibonacci(24);
    }
    return sum;
}

static u32 add_(u32 a) { return a + 3; }
static u32 xor_(u32 a) { return a ^ 0x5A5A; }
static u32 turn(u32 a) { return a << 5 | a >> 27; }
static u32 less(u32 a) { return a - 1; }

static u32 dispatch(u32 rounds)
{
    static u32 (*const operations[])(u32) = {add_, xor_, turn, less};
    u32 value = 1;
    for (u32 i = 0; i < rounds * 300000; i++) {
        value = operations[(value ^ i) & 3](value);
    }
    return value;
}

static u32 matrix(u32 rounds)
{
    for (u32 i = 0; i < 64; i++) {
        for (u32 j = 0; j < 64; j++) {
            cells[0][i][j] = i + 1;
            cells[1][i][j] = 1.0 / (j + 1);
        }
    }
    while (rounds--) {
        for (u32 i = 0; i < 64; i++) {
            for (u32 j = 0; j < 64; j++) {
                double sum = 0;
                for (u32 k = 0; k < 64; k++) {
                    sum += cells[0][i][k] * cells[1][k][j];
                }
                cells[2][i][j] = sum;
            }
        }
    }
    return (u32)cells[2][63][0];
}

static u32 wide(u32 rounds)
{
    u64 a = 0x0123456789ABCDEFull, b = 0xFEDCBA9876543210ull;
    for (u32 i = 0; i < rounds * 500000; i++) {
        a = a * 6364136223846793005ull + b;
        b = b >> 11 ^ a << 17;
    }
    return (u32)(a ^ b >> 32);
}

static u32 copies(u32 rounds)
{
    while (rounds--) {
        void *to = other, *from = words;
        __typeof__(sizeof 0) count = SIZE * sizeof(u32) / 4;
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    return other[1];
}

const struct work works[] = {
    {"arithmetic", arithmetic, 100}, {"division", division, 20},  {"sieve", sieve, 120},
    {"sorting", sorting, 6},        {"chase", chase, 60},        {"checksum", checksum, 150},
    {"calls", calls, 40},           {"dispatch", dispatch, 30},  {"matrix", matrix, 25},
    {"wide", wide, 40},             {"copies", copies, 300},
    {0},
};

void prepare(void)
{
}
