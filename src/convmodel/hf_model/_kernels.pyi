"""Types of the compiled module `_kernels.c`."""

def multiply(plan: bytes, activations: int, residual: int, results: int, rows: int, threads: int) -> None: ...
def attend(
    kind: bytes,
    states: int,
    cos: int,
    sin: int,
    keys: int,
    values: int,
    firsts: int,
    results: int,
    rows: int,
    room: int,
    position: int,
    threads: int,
) -> None: ...
def log_sums(logits: int, sums: int, places: int, rows: int, columns: int) -> None: ...
def instructions() -> list[str]: ...
def use(name: str) -> None: ...
