"""Random cases for the engine, and an oracle that deletes tokens from unmodified Hugging Face models row by row."""
