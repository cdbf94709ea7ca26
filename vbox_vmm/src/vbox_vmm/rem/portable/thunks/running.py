"""Running guest code: the loop around Unicorn's, interrupts and exceptions, the time-stamp counter.

As native/cpu.c has it.  `attention` is a word in the CPU's state that every translated block looks at before
its first instruction; then Unicorn's loop calls `exec_interrupt`, where everything is looked at.
"""

from __future__ import annotations

from ..language import (
    EXCHANGE_U32,
    MULTIPLY_SHIFT_40,
    UInt32,
    buffer,
    execute,
    lib,
    python,
    tail,
    u8,
    u32,
    u64,
)
from ..layout import (
    ENV_MP_STATE,
    EXCP_DEBUG,
    EXCP_GAVE_UP,
    EXCP_HALTED,
    EXCP_HLT,
    EXCP_INTERRUPT,
    EXCP_YIELD,
    FLAG_IF,
    HF2_NMI,
    HF_INHIBIT_IRQ,
    HF_LMA,
    UC_INVALID_ERROR,
    UC_QUIT_REQUEST,
    UC_SIZE_RECUR_MEM,
    UC_STOP_REQUEST,
    VECTOR_DB,
    VECTOR_DF,
    VECTOR_GP,
    VECTOR_NMI,
    VECTOR_TS,
    VECTOR_UD,
)
from ..structures import Cpu, Env, Machine
from .debug import debug_attend, debug_vector
from .memory import machine_of, machine_of_cpu

PRIVATE_REQUEST = 0x8000  # always set, so that Unicorn's loop always asks
NO_VECTOR = 256
KICKED, HALTED, TRIPLE_FAULT, FAILED, STOPPED, UNICORN_ERROR = range(6)
NONE = (1 << 64) - 1
EXCHANGE_U8 = bytes.fromhex("86 08 0fb6c1")  # xchg [rax], cl / movzx eax, cl
M_KICKED, M_INSIDE, M_EXPIRED = Machine.kicked.offset, Machine.inside.offset, Machine.expired.offset
CLOCK_MONOTONIC = 1
PR_SET_NAME = 15


# --- interrupts and exceptions --------------------------------------------------------------------


def delivery_error(env: Env, number: int, error: int) -> int:
    """The error code of a fault that was met on the way through the IDT.  Unicorn reports a bad gate of a
    long-mode IDT with sixteen times its number, the CPU with eight times; and Unicorn never says that it was
    not the program that asked for the delivery (EXT)."""
    m = machine_of(env)
    result = error
    if m.delivering == NONE:
        return error
    if env.hflags & HF_LMA and error == m.delivering * 16 + 2:
        result = m.delivering * 8 + 2
    if number >= VECTOR_TS and number <= VECTOR_GP and not m.is_program:
        result |= 1
    m.delivering = NONE
    return result


def raise_exception_err(env: Env, number: UInt32, error: UInt32) -> None:
    tail(lib.raise_exception_err, env, number, delivery_error(env, number, error))


def raise_exception_err_ra(env: Env, number: UInt32, error: UInt32, back: int) -> None:
    tail(lib.raise_exception_err_ra, env, number, delivery_error(env, number, error), back)


def abort(cpu: Cpu, text: int) -> None:
    """cpu_abort: Unicorn ends the process when it meets a CPU state that it cannot serve; end the run."""
    machine_of_cpu(cpu).abort_format = text
    cpu.exception_index = EXCP_GAVE_UP
    lib.cpu_loop_exit_restore(cpu, 0)


def deliver_external(m: Machine, vector: int) -> None:
    m.delivering = vector
    m.is_program = 0
    lib.do_interrupt_x86_hardirq(m.env, vector, 1)
    m.delivering = NONE


def exec_interrupt(cpu: Cpu, request: int) -> int:
    """CPUClass.cpu_exec_interrupt: true when the flow of control was changed."""
    m = machine_of_cpu(cpu)
    env = m.env
    if env.attention:
        execute(EXCHANGE_U32, env.address + ENV_MP_STATE, 0)
    if m.kicked:
        cpu.exit_request = 1
        return 0
    if env.hflags & HF_INHIBIT_IRQ or (m.stepping and debug_attend(m)):
        return 0
    if m.nmi and not env.hflags2 & HF2_NMI:
        m.nmi = 0
        env.hflags2 |= HF2_NMI
        deliver_external(m, VECTOR_NMI)
        return 1
    if m.irq and env.eflags & FLAG_IF:
        vector = u32(python.acknowledge(m.number))
        if vector < NO_VECTOR:
            deliver_external(m, vector)
            return 1
    return 0


def on_exception(uc: int, wanted: UInt32, machine: Machine) -> None:
    """Unicorn's hook for exceptions: deliver them as the CPU does.  A fault on the way leaves by longjmp."""
    env = machine.env
    number = wanted
    if env.exception_is_int:
        # Unicorn has moved EIP on; a fault of the delivery must report the INT itself.
        env.eip = machine.interrupt_eip
    if number in (VECTOR_DB, VECTOR_UD) or machine.stepping:
        number = debug_vector(machine, number)
        machine.cpu.exception_index = number
    machine.delivering = number
    machine.is_program = env.exception_is_int
    lib.x86_cpu_do_interrupt(machine.cpu)
    machine.delivering = NONE


# --- running --------------------------------------------------------------------------------------


def has_wake_event(m: Machine) -> int:
    return (m.nmi and not m.env.hflags2 & HF2_NMI) or (m.irq and m.env.eflags & FLAG_IF)


def run(m: Machine) -> int:
    """Until something of ExitReason happens: its number, or STOPPED + 65536 times Unicorn's code."""
    # Either this sees that the deadline has passed, or the timer's thread sees the guest inside.
    execute(EXCHANGE_U8, m.address + M_INSIDE, 1)
    expired = execute(EXCHANGE_U8, m.address + M_EXPIRED, 0)
    reason = KICKED if expired else run_loop(m)
    m.inside = 0
    return reason


def run_loop(m: Machine) -> int:
    cpu = m.cpu
    uc = m.uc
    cpu.exception_index = NONE
    while True:
        if m.shut_down:  # no CpuState tells of it: nothing may come first
            return TRIPLE_FAULT
        if execute(EXCHANGE_U8, m.address + M_KICKED, 0):
            return KICKED
        if m.halted:
            if not has_wake_event(m):
                return HALTED
            m.halted = 0
        cpu.halted = 0
        cpu.stop = 0
        cpu.stopped = 0
        cpu.created = 1
        cpu.interrupt_request |= PRIVATE_REQUEST
        u8[uc + UC_STOP_REQUEST] = 0
        u8[uc + UC_QUIT_REQUEST] = 0
        u32[uc + UC_INVALID_ERROR] = 0
        u32[uc + UC_SIZE_RECUR_MEM] = 0
        result = u32(lib.cpu_exec(uc, cpu))
        if result == EXCP_HLT:
            if cpu.halted:
                m.halted = 1
            elif m.env.old_exception == VECTOR_DF:
                m.shut_down = 1
        elif result == EXCP_GAVE_UP:
            return FAILED
        elif result not in (EXCP_INTERRUPT, EXCP_HALTED, EXCP_YIELD, EXCP_DEBUG):
            return STOPPED + (result << 16)
        if u32[uc + UC_INVALID_ERROR]:
            return UNICORN_ERROR + (u32[uc + UC_INVALID_ERROR] << 16)


# --- time -----------------------------------------------------------------------------------------


def timer_main(m: Machine) -> int:
    """A thread: kicks the guest out whenever the timer runs out."""
    count = buffer(16)
    lib.prctl(PR_SET_NAME, m.timer_name)
    while True:
        lib.read(m.timer, count, 8)
        if m.timer_quit:
            return 0
        execute(EXCHANGE_U8, m.address + M_EXPIRED, 1)
        if m.inside:
            execute(EXCHANGE_U8, m.address + M_EXPIRED, 0)
            m.kicked = 1
            m.env.attention = 1


def tsc_read(m: Machine) -> int:
    """The time-stamp counter without the guest's own offset."""
    time = buffer(16)
    lib.clock_gettime(CLOCK_MONOTONIC, time)
    now = u64[time] * 1_000_000_000 + u64[time + 8]
    ticks = m.tsc_ticks
    if now > m.tsc_host_ns:
        ticks += execute(MULTIPLY_SHIFT_40, now - m.tsc_host_ns, m.tsc_scale)
    if ticks > m.tsc_limit:
        ticks = m.tsc_limit
    if ticks < m.tsc_last:
        ticks = m.tsc_last
    m.tsc_last = ticks
    return ticks
