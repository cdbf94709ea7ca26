"""`python -m vbox_pdm.testing.conformance`."""

import sys

from vbox_pdm.testing.conformance.command import main

if __name__ == "__main__":
    sys.exit(main())
