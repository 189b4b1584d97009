"""One policy a file: which slots of the KV cache stay."""
