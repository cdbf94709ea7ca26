"""IDE controllers as devices of vbox-vmm."""
