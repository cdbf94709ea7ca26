/* Where things lie inside Unicorn 2.1.4 (x86-64 Linux wheel), as byte offsets.
 *
 * Unicorn exports functions but no structure definitions, so the offsets are facts about one binary.
 * `library.c` compares what they lead to with exported symbols each time an engine is opened, and the
 * engine refuses to start when one does not fit.
 */
#ifndef VBOX_REM_LAYOUT_H
#define VBOX_REM_LAYOUT_H

#include <stdint.h>

#define FIELD(type, base, offset) (*(type *)((char *)(base) + (offset)))

/* uc_struct */
enum {
    UC_MEMORY_MAPPING = 288,
    UC_STOP_INTERRUPT = 224,
    UC_CPU = 440,
    UC_L1_MAP = 736,
    UC_L1_SIZE = 752,
    UC_L1_SHIFT = 756,
    UC_L2_LEVELS = 760,
    UC_TCG = 768,
    UC_SIZE_RECUR_MEM = 1384,
    UC_STOP_REQUEST = 1389,
    UC_QUIT_REQUEST = 1390,
    UC_INVALID_ERROR = 1424,
    UC_USE_EXITS = 1428,
    UC_EXITS = 1432, /* 64 x u64, unused once use_exits is set: the last two hold our mark */
    UC_NO_EXIT_REQUEST = 2034,
    UC_NESTED_LEVEL = 14840,
    UC_SKIP_SYNC_PC = 14898
};

/* CPUState, the start of X86CPU */
enum {
    CPU_CREATED = 16,
    CPU_STOP = 17,
    CPU_STOPPED = 18,
    CPU_EXIT_REQUEST = 21,
    CPU_CFLAGS_NEXT = 24,
    CPU_INTERRUPT_REQUEST = 28,
    CPU_ENV_PTR = 296,
    CPU_ICOUNT_DECR_PTR = 304,
    CPU_HALTED = 33176,
    CPU_EXCEPTION_INDEX = 33184,
    CPU_UC = 33192,
    CPU_CC = 33200,
    CPU_TLB = 33216,
    CPU_ICOUNT_DECR = 35392,
    CPU_ENV = 35408
};

/* CPUClass; each engine has its own */
enum {
    CC_RESET = 0,
    CC_DO_INTERRUPT = 16,
    CC_TLB_FILL = 72,
    CC_TLB_FILL_CPU = 80,
    CC_EXEC_INTERRUPT = 144
};

/* CPUX86State */
enum {
    ENV_REGS = 0,
    ENV_EIP = 128,
    ENV_EFLAGS = 136,
    ENV_CC_DST = 144,
    ENV_CC_SRC = 152,
    ENV_CC_SRC2 = 160,
    ENV_CC_OP = 168,
    ENV_DF = 172,
    ENV_HFLAGS = 176,
    ENV_HFLAGS2 = 180,
    ENV_SEGS = 184,
    ENV_LDT = 328,
    ENV_TR = 352,
    ENV_GDT = 376,
    ENV_IDT = 400,
    ENV_CR = 424,
    ENV_A20_MASK = 496,
    ENV_EFER = 592,
    ENV_FPSTT = 604,
    ENV_FPUS = 608,
    ENV_FPUC = 610,
    ENV_FPTAGS = 612,
    ENV_FPREGS = 624,
    ENV_FPOP = 752,
    ENV_FPIP = 760,
    ENV_FPDP = 768,
    ENV_FT0 = 784,
    ENV_X87_ERROR = 796, /* in its padding */
    ENV_MXCSR = 816,
    ENV_XMM = 824, /* 64 bytes apart */
    ENV_SYSENTER_CS = 4800,
    ENV_SYSENTER_ESP = 4808,
    ENV_SYSENTER_EIP = 4816,
    ENV_STAR = 4824,
    ENV_LSTAR = 4840,
    ENV_CSTAR = 4848,
    ENV_FMASK = 4856,
    ENV_KERNELGSBASE = 4864,
    ENV_TSC_AUX = 4896,
    ENV_MISC_ENABLE = 4920,
    ENV_PAT = 5280,
    ENV_ERROR_CODE = 5384,
    ENV_EXCEPTION_IS_INT = 5388,
    ENV_EXCEPTION_NEXT_EIP = 5392,
    ENV_DR = 5400,
    ENV_OLD_EXCEPTION = 5496,
    ENV_TSC_OFFSET = 5512,
    ENV_V_TPR = 5556,
    ENV_CPUID_LEVEL = 5604,
    ENV_CPUID_XLEVEL = 5608,
    ENV_CPUID_VENDOR = 5616,
    ENV_CPUID_VERSION = 5628,
    ENV_FEATURES = 5632,
    ENV_FEATURE_WORDS = 34,
    FEATURES_1_EDX = 0,
    FEATURES_1_ECX = 1,
    FEATURES_7_EBX = 2,
    FEATURES_7_ECX = 3,
    FEATURES_8000_0001_EDX = 6,
    ENV_MTRR_FIXED = 6320,
    ENV_MTRR_DEFTYPE = 6408,
    ENV_MTRR_VAR = 6416,
    ENV_MP_STATE = 6544, /* unused by TCG: our attention word lives here, in reach of generated code */
    ENV_EXECUTED = 6592, /* tsc_khz and user_tsc_khz, unused too: count.c */
    ENV_STOP = 6600,
    ENV_MCG_CAP = 6608,
    ENV_UC = 7000
};

enum { R_AX, R_CX, R_DX, R_BX, R_SP, R_BP, R_SI, R_DI };
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };

typedef struct {
    uint32_t selector, pad;
    uint64_t base;
    uint32_t limit, flags;
} SegmentCache;

/* CPUTLB */
enum {
    TLB_DIRTY = 0, /* u16: modes that are not empty */
    TLB_DESC = 32,
    TLB_DESC_SIZE = 696,
    TLB_FAST = 2128,
    TLB_FAST_SIZE = 16,
    TLB_MODES = 3,
    TLB_VICTIMS = 8,
    DESC_LARGE_ADDR = 0,
    DESC_LARGE_MASK = 8,
    DESC_WINDOW_MOST = 24, /* used entries, the most of the last 100 ms: a flush makes the table fit them */
    DESC_USED = 32,
    DESC_VINDEX = 40,
    DESC_VTABLE = 48,
    DESC_VIOTLB = 560,
    DESC_IOTLB = 688,
    FAST_MASK = 0,
    FAST_TABLE = 8
};

typedef struct {
    uint64_t read, write, code, paddr, addend, pad[3];
} TlbEntry;

typedef struct {
    uint64_t address;
    uint32_t attributes, pad;
} IoTlbEntry;

enum {
    TLB_INVALID = 1 << 11,
    TLB_NOTDIRTY = 1 << 10,
    TLB_MMIO = 1 << 9,
    TLB_WATCHPOINT = 1 << 8,
    TLB_DISCARD_WRITE = 1 << 6
};
enum { PROT_PAGE_READ = 1, PROT_PAGE_WRITE = 2, PROT_PAGE_EXEC = 4, PROT_PAGE_WRITE_INV = 64 };
enum { MMU_KSMAP, MMU_USER, MMU_KNOSMAP };

/* PageDesc: what the translator knows of one host page */
typedef struct {
    uintptr_t first_block;
    void *bitmap;
    uint32_t writes, pad;
} PageDesc;

/* MemoryRegion */
enum { REGION_SIZE = 160, REGION_RAM = 0, REGION_PERMISSIONS = 136 };

/* TCGContext, TCGOp, TCGLabel */
enum {
    TCG_TEMPS = 48, /* how many there are in the block */
    TCG_OPS = 56,   /* how many; from 4000 on the block ends */
    TCG_UC = 39280,
    TCG_CPU_ENV = 39152,
    TCG_OPS_TAIL = 29576 + 8,
    OP_LINK = 8,
    OP_ARGS = 24,
    OP_MAX_ARGS = 11,
    TEMPS_ENOUGH = 384, /* of 512, so that one instruction finds more than it needs */
    OPS_ENOUGH = 4000,
    OPCODE_SET_LABEL = 1,
    OPCODE_LD_I32 = 13,
    OPCODE_MOVI_I64 = 64,
    OPCODE_LD_I64 = 73,
    OPCODE_ST_I64 = 77,
    OPCODE_ADD_I64 = 78,
    OPCODE_INSN_START = 129,
    OPCODE_QEMU_LD_I32 = 133,
    OPCODE_QEMU_ST_I64 = 136,
    TCG_I32 = 0,
    TCG_I64 = 1,
    CONDITION_GEU = 5,
    CONDITION_NE = 9,
    EXIT_REQUESTED = 3
};

/* hflags, hflags2, eflags, descriptor bits, exceptions */
enum {
    HF_CPL = 3,
    HF_INHIBIT_IRQ = 1 << 3,
    HF_CS32 = 1 << 4,
    HF_CS64 = 1 << 15,
    HF_LMA = 1 << 14,
    HF_SMAP = 1 << 23,
    HF2_GIF = 1,
    HF2_NMI = 4
};
enum {
    FLAG_CF = 1,
    FLAG_ZF = 1 << 6,
    FLAG_SF = 1 << 7,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_OF = 1 << 11,
    FLAG_IOPL = 3 << 12,
    FLAG_NT = 1 << 14,
    FLAG_RF = 1 << 16,
    FLAG_VM = 1 << 17,
    FLAG_VM_BYTE = 2,
    FLAG_AC = 1 << 18,
    FLAGS_ARITHMETIC = 0x8D5
};
enum {
    DESC_A = 1 << 8,
    DESC_RW = 1 << 9,
    DESC_CODE = 1 << 11,
    DESC_S = 1 << 12,
    DESC_P = 1 << 15,
    DESC_L = 1 << 21,
    DESC_B = 1 << 22,
    DESC_G = 1 << 23
};
enum { VECTOR_DB = 1, VECTOR_NMI = 2, VECTOR_UD = 6, VECTOR_DF = 8, VECTOR_TS = 10, VECTOR_GP = 13 };
enum {
    EXCP_INTERRUPT = 0x10000,
    EXCP_HLT = 0x10001,
    EXCP_DEBUG = 0x10002,
    EXCP_HALTED = 0x10003,
    EXCP_YIELD = 0x10004,
    EXCP_ATOMIC = 0x10005,
    EXCP_GAVE_UP = 0x10100 /* our own */
};
enum {
    CR0_PE = 1,
    CR0_NE = 1 << 5,
    CR0_NW = 1 << 29,
    CR0_CD = 1 << 30,
    CR4_PAE = 1 << 5,
    EFER_SCE = 1,
    EFER_LME = 1 << 8,
    EFER_LMA = 1 << 10,
    EFER_NXE = 1 << 11,
    EFER_FFXSR = 1 << 14
};
#define CR0_PG ((uint64_t)1 << 31)
#define PHYSICAL_END ((uint64_t)1 << 40) /* as CPUID says */

/* The pins by which an exception of the x87 is told where CR0.NE is clear: FERR#, and IGNNE#, the board's answer.
 * What is known of them is kept beside FT0, so that instructions look at it in passing. */
enum { ERROR_NONE, ERROR_TOLD, ERROR_IGNORED };
enum { TSS_BUSY = 1 << 9, TSS_TYPE = 0x1f00, TSS16 = 0x100, TSS32 = 0x900 };
enum { DR6_BD = 1 << 13, DR7_GD = 1 << 13 };
enum { CC_OP_EFLAGS = 1 };

#endif
