"""How good is the conformance kit?  Faults are planted in our own devices, and the kit must find them.

    make mutants

`catalogue` has faults that a person wrote down (`faults/*.toml`), `drawn` makes more by chance.  Each
is tried on a copy of its plugin that hides the installed one; `run` starts the kit on it.  What
the kit does not find is classified in `survivors.toml`; `document` writes docs/plugins/mutants.md.
"""
