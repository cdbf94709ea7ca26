"""What people start: the command `vbox`.

Front ends use the public face of the kernel (`vm`, `vmstate`, `machine`, `boot`, `cfgm`, `cfgm_xml`)
and the contract, never the kernel's inside.
"""
