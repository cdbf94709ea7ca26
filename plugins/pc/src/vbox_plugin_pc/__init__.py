"""The chips of a PC's board as devices of vbox-vmm; one module for each, loaded when a machine uses it."""
