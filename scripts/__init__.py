"""How shipped weights and stored results were made; `python -m scripts.NAME` runs one."""
