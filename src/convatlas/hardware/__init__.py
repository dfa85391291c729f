"""How layers map to hardware: what a machine has, and what the compiler makes of a kernel for a GPU that is not here."""
