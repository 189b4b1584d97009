"""The programs: Hydra, the command line, errors for the user, the folders of runs and sweeps."""
