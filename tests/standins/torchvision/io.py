"""Files are read by no test."""
