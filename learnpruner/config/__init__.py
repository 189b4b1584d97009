"""The schema of conf/: what may be set, of which type, in which range."""
