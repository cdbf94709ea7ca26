/* Runs snippets of user-mode code on the host's CPU, for test_differential.py.
 *
 * From the standard input, again and again: a uint32_t length, so many bytes of code, a State, the window of
 * data.  To the standard output: the State and the window as the snippet left them.  Everything lies at the
 * addresses that the guest has too.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define CODE 0x180000
#define DATA 0x190000
#define STATE 0x1a0000
#define WINDOW 256

typedef struct {
    uint64_t gpr[16], flags, entry, host_stack, leave, signal, unused[11];
    uint8_t fpu[512];
} State;

_Static_assert(sizeof(State) == 768, "the assembler and the test count on it");

static sigjmp_buf after_fault;

static void on_fault(int number)
{
    ((State *)STATE)->signal = number;
    siglongjmp(after_fault, 1);
}

/* In the State: registers from 0, flags 128, entry 136, host's stack 144. */
__asm__("enter:\n"
        "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "  mov %rsp, 0x1a0090\n"
        "  fxrstor64 0x1a0100\n"
        "  push 0x1a0080; popf\n"
        "  mov 0x1a0000, %rax; mov 0x1a0008, %rcx; mov 0x1a0010, %rdx; mov 0x1a0018, %rbx\n"
        "  mov 0x1a0020, %rsp; mov 0x1a0028, %rbp; mov 0x1a0030, %rsi; mov 0x1a0038, %rdi\n"
        "  mov 0x1a0040, %r8; mov 0x1a0048, %r9; mov 0x1a0050, %r10; mov 0x1a0058, %r11\n"
        "  mov 0x1a0060, %r12; mov 0x1a0068, %r13; mov 0x1a0070, %r14; mov 0x1a0078, %r15\n"
        "  jmp *0x1a0088\n"
        "leave:\n"
        "  mov %rax, 0x1a0000; mov %rcx, 0x1a0008; mov %rdx, 0x1a0010; mov %rbx, 0x1a0018\n"
        "  mov %rsp, 0x1a0020; mov %rbp, 0x1a0028; mov %rsi, 0x1a0030; mov %rdi, 0x1a0038\n"
        "  mov %r8, 0x1a0040; mov %r9, 0x1a0048; mov %r10, 0x1a0050; mov %r11, 0x1a0058\n"
        "  mov %r12, 0x1a0060; mov %r13, 0x1a0068; mov %r14, 0x1a0070; mov %r15, 0x1a0078\n"
        "  mov 0x1a0090, %rsp\n"
        "  pushf; pop 0x1a0080\n"
        "  cld\n"
        "  fxsave64 0x1a0100\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "  ret\n");

extern void enter(void), leave(void);

static int map(uintptr_t address)
{
    void *got = mmap((void *)address, 0x10000, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return got == (void *)address;
}

int main(void)
{
    static const int signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGTRAP};
    static char alternate[1 << 16];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK | SA_NODEFER};
    State *state = (State *)STATE;
    uint32_t size;

    if (!map(CODE) || !map(DATA) || !map(STATE) || sigaltstack(&stack, NULL) != 0) {
        return 2;
    }
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        sigaction(signals[i], &action, NULL);
    }
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        uint8_t *end = (uint8_t *)CODE + size;
        static const uint8_t jump[] = {0xff, 0x24, 0x25, 0x98, 0x00, 0x1a, 0x00}; /* jmp *0x1a0098 */
        if (fread((void *)CODE, 1, size, stdin) != size || fread(state, sizeof *state, 1, stdin) != 1 ||
            fread((void *)DATA, 1, WINDOW, stdin) != WINDOW) {
            return 3;
        }
        memcpy(end, jump, sizeof jump);
        state->entry = CODE;
        state->leave = (uint64_t)(uintptr_t)leave;
        state->signal = 0;
        if (sigsetjmp(after_fault, 1) == 0) {
            enter();
        }
        fwrite(state, sizeof *state, 1, stdout);
        fwrite((void *)DATA, 1, WINDOW, stdout);
    }
    return 0;
}
