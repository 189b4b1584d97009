"""What tests/bad_input.py runs: inputs that are wrong or odd, and faults, each with what must come of it."""
