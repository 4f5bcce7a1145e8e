"""Types of the compiled module `_kernels.c`."""

def multiply(plan: bytes, activations: int, residual: int, results: int, rows: int, threads: int) -> None: ...
def prepare(plan: bytes, activations: int, results: int, scales: int, rows: int, threads: int) -> None: ...
def scale(
    plan: bytes,
    matrix: int,
    first: int,
    count: int,
    sums: int,
    scales: int,
    residual: int,
    results: int,
    rows: int,
    column: int,
    threads: int,
) -> None: ...
def append(
    kind: bytes,
    states: int,
    cos: int,
    sin: int,
    keys: int,
    values: int,
    rows: int,
    count: int,
    room: int,
    position: int,
    threads: int,
) -> None: ...
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
