"""Settings of the contract's own tests."""

from hypothesis import settings

# Machines that run tests are shared: a slow example is no failure.
settings.register_profile("vbox_pdm", deadline=None)
settings.load_profile("vbox_pdm")
