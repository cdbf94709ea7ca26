"""The kernel of vbox-vmm, a PC virtual machine monitor whose devices are plugins.

Its public face: `vm.Vm`, `machine` (the default machine), `cfgm` and `cfgm_xml`, `loaders`.
"""
