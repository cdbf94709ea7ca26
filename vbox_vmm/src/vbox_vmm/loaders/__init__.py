"""Entering a kernel directly: what firmware and a boot loader leave behind, made by the VMM.

Each loader takes guest memory, and where it must, the port bus, and returns the CPU state to start
with.  They know nothing of a VM.
"""
