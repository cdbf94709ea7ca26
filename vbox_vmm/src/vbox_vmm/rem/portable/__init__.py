"""REM's portable engine: what the native module does, by ctypes and generated machine code.

For installations without a compiler.  It has the same behaviour: `thunks` has the functions of the native
module in a small subset of Python (`language`), which `compiler` turns into machine code when the engine is
first used.  Slower is what goes through Python: handlers of ports and MMIO, and calls of the engine's
methods.
"""
