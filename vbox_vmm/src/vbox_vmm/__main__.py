"""`python -m vbox_vmm` is the command `vbox`."""

from vbox_vmm.frontends.cli import main

if __name__ == "__main__":
    main()
