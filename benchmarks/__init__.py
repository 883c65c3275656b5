"""Speed and correctness beside other libraries: `python benchmarks/NAME.py` runs one."""
