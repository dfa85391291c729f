"""How anything is measured; the folder benchmarks/ of the repository beside it says what is: suites for pytest, made of this.

cases, published          what is timed: layers of the networks, published layers, networks
contestants, networks     who races on it: ours and PyTorch's
racing, timing            outputs are checked (verify/on_device.py), then timed by one protocol
precompile                compiling ahead of it, on all cores
ceilings, environment, clocks   what this GPU reaches at its best, and what it is
cpu, compile_times        what a machine without a GPU can measure
profile, ncu, trace_event `convatlas profile`; tuning: configs against the model's choice
tables                    what a run prints when it ends; collect: from a run to a stored result (convatlas.results)
suite/                    `make gpu`
"""
