"""How each method is held against golden vectors: one module a file, named after it, with

    def check(name: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> bool

which raises AssertionError where the method differs, returns True where it compared, False where a case only holds inputs.
"""
