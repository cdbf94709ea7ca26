"""A VGA with Bochs' DISPI extension: the device `vga` of vbox-vmm."""
