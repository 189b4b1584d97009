"""Other programs that run a plan."""
