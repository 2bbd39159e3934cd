"""C code for the CPU, and what compiles, loads and checks it."""
