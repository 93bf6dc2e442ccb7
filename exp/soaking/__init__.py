"""The parts of exp.soak: what clients ask, what goes wrong meanwhile, and what is watched."""
