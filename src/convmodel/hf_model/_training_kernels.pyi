"""Types of the compiled module `_training_kernels.c`."""

ROWS: int

def attend(
    kind: bytes,
    queries: int,
    keys: int,
    values: int,
    cos: int,
    sin: int,
    results: int,
    log_sums: int,
    by_results: int,
    by_queries: int,
    by_keys: int,
    by_values: int,
    windows: int,
    count: int,
    longest: int,
    threads: int,
) -> None: ...
def norm(
    epsilon: float,
    given: int,
    weights: int,
    factors: int,
    by_result: int,
    result: int,
    by_weights: int,
    rows: int,
    width: int,
    is_half: int,
    threads: int,
) -> None: ...
def gate(
    given: int, by_result: int, result: int, rows: int, width: int, is_half: int, activation: int, threads: int
) -> None: ...
def instructions() -> list[str]: ...
def use(name: str) -> None: ...
