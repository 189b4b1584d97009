"""What tests/gpu.py carries out."""
