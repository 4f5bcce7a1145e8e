"""Preparing data at size: memory, packing and tokenising, each compared with the usual way.

    python benchmarks/data.py chitchat.json --tokenizer FOLDER [--conversations 100000 1000000]

`chitchat.json` is `dataset.json` of the PyPI package chitchat-dataset; `--tokenizer` a folder with GPT-2's tokenizer
(or any hub id). Each size is prepared and read through once in a fresh process, sampled every 0.2 s. Memory is
proportional set size (pages shared between processes are counted once) of the process and those it starts.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROUNDS = 5
LENGTH = 512
GIB = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--conversations", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--only", choices=["tokenise", "pack", "memory"])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.tokenizer)
        return
    if options.only in (None, "tokenise"):
        tokenise(options.corpus, options.tokenizer)
    if options.only in (None, "pack"):
        packing(options.corpus, options.tokenizer)
    if options.only in (None, "memory"):
        memory(options.corpus, options.tokenizer, options.conversations)


def tokenise(corpus: Path, name: str) -> None:
    """One core: turns encoded together, compared with one `encode` call of the Hugging Face tokenizer per turn."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from convmodel import ConversationTokenizer
    from convmodel.data.reading.reader import ConversationReader

    tokenizer = ConversationTokenizer.from_pretrained(name)
    conversations = [c for _, c in zip(range(600), ConversationReader(corpus, on_error="skip"), strict=False)]
    turns = [turn for conversation in conversations for turn in conversation.turns]
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "one encode call per turn (transformers)": lambda: [
            tokenizer.hf_tokenizer.encode(turn, add_special_tokens=False) for turn in turns
        ],
        "one call per turn (tokenizers alone)": lambda: [tokenizer.encode(turn) for turn in turns],
        "turns together": lambda: tokenizer._encode_all(turns),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found = []
    for _ in range(ROUNDS):
        for way, encode in ways.items():
            begin = time.perf_counter()
            found.append(encode())
            seconds[way].append(time.perf_counter() - begin)
    assert all(ids == found[0] for ids in found), "the ways differ"
    tokens = sum(map(len, found[0]))
    print(f"tokenising {len(turns):,} turns, one core, medians of {ROUNDS} rounds in turn")
    ours = seconds["turns together"]
    for way, times in seconds.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(times, ours, strict=True))
        print(f"  {way:42} {tokens / statistics.median(times):12,.0f} tokens/s   ours is {ratio:.2f} times as fast")


def packing(corpus: Path, name: str) -> None:
    """The whole corpus at 512: how full rows are, and what is learned of it."""
    from convmodel import ConversationTokenizer
    from convmodel.data.reading.reader import ConversationReader
    from convmodel.data.windows.order import GroupedSampler, packed_order
    from convmodel.data.windows.store import prepare_windows

    tokenizer = ConversationTokenizer.from_pretrained(name)
    reader = ConversationReader(corpus, on_error="skip")
    windows = prepare_windows(reader, tokenizer, max_length=LENGTH, loss_on="all")
    whole = [
        sum(1 + len(ids) for ids in tokenizer._encode_all(conversation.turns)) for conversation in reader
    ]  # what each conversation has to learn: its turns' tokens and a separator after each
    turns = sum(len(conversation.turns) for conversation in reader)
    closed = sum(window.labels.count(tokenizer.sep_token_id) for window in windows.windows)
    long = sum(window.cut > 0 for window in windows.windows)
    begin = time.perf_counter()
    packings = [packed_order(windows.lengths, LENGTH, seed=42, epoch=epoch) for epoch in range(3)]
    seconds = (time.perf_counter() - begin) / 3
    total = int(windows.lengths.sum())
    rows = [len(packing) for packing in packings]
    grouped = list(GroupedSampler(windows.lengths, 8, 42))
    batches = [windows.lengths[grouped[start : start + 8]] for start in range(0, len(grouped), 8)]
    print(f"{reader.describe()}; {len(windows.windows):,} windows of at most {LENGTH} tokens")
    print(f"  turns supervised: {closed + long:,} of {turns:,}, of which {long} are longer than a window and were cut")
    print(f"  supervised {windows.tokens:,} of {sum(whole):,} tokens: {windows.tokens / sum(whole):.4f}")
    print(f"  cutting each conversation at {LENGTH}: {sum(min(n, LENGTH - 1) for n in whole) / sum(whole):.4f}")
    print(f"  packed rows are full to {', '.join(f'{total / (LENGTH * n):.4f}' for n in rows)} ({seconds:.2f} s each)")
    print(f"  batches of 8 by length are full to {total / sum(int(b.max()) * len(b) for b in batches):.4f}")
    print(f"  one window a row of {LENGTH} would be full to {total / (LENGTH * len(windows.windows)):.4f}")


def memory(corpus: Path, name: str, sizes: list[int]) -> None:
    """Prepares and iterates over many short conversations, in fresh processes, by both ways."""
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder, f"{size}.jsonl")
            with path.open("w", encoding="utf-8") as file:
                for line in short_conversations(corpus, size):
                    file.write(line)
            environment = os.environ | {"CONVMODEL_CACHE": f"{folder}/cache-{size}"}
            command = [sys.executable, __file__, str(corpus), "--tokenizer", name, "--measure", str(path)]
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[size] = json.loads(output)
            path.unlink()
            values = ", ".join(f"{key} {value:,.2f}" for key, value in found[size].items())
            print(f"{size:,} conversations: {values}", flush=True)
    small, large = found[sizes[0]], found[sizes[-1]]
    for key in ("prepare_gib", "iterate_gib"):
        print(f"  {key}: {large[key] / small[key]:.2f} times as much for {sizes[-1] / sizes[0]:g} times the data")


def short_conversations(corpus: Path, number: int) -> Iterator[str]:
    """Cuts the corpus into conversations of 3 to 8 turns, and repeats it until there are enough."""
    from convmodel.data.reading.reader import ConversationReader

    chance = random.Random(0)
    turns = [list(conversation.turns) for conversation in ConversationReader(corpus, on_error="skip")]
    made = 0
    while made < number:
        for conversation in turns:
            start = 0
            while len(conversation) - start >= 3 and made < number:
                length = chance.randint(3, 8)
                part = conversation[start : start + length]
                start += length
                if len(part) >= 3:
                    made += 1
                    yield json.dumps(part, ensure_ascii=False) + "\n"


def measure(path: Path, name: str) -> None:
    """Runs in a process of its own: prepares one file, then reads all packed batches of an epoch."""
    import resource

    from convmodel import ConversationTokenizer
    from convmodel.data.reading.reader import ConversationReader
    from convmodel.data.windows.collate import WindowDataset, pack
    from convmodel.data.windows.order import PackedSampler
    from convmodel.data.windows.store import prepare_windows

    tokenizer = ConversationTokenizer.from_pretrained(name)
    with Watch() as watch:
        begin = time.perf_counter()
        windows = prepare_windows(ConversationReader(path), tokenizer, max_length=LENGTH, loss_on="all")
        prepared = time.perf_counter() - begin
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    busy = sum(usage.ru_utime + usage.ru_stime for usage in (own, children))
    with Watch() as second:
        begin = time.perf_counter()
        sampler = PackedSampler(windows.lengths, LENGTH, seed=0)
        dataset = WindowDataset(windows.windows)
        tokens = 0
        rows = []
        for row in sampler:
            rows.append(dataset[row])
            if len(rows) == 8:
                batch = pack(rows, use_token_types=True)
                tokens += int((batch["labels"] != -100).sum())
                rows = []
        iterated = time.perf_counter() - begin
    result = {
        "prepare_s": prepared,
        "cores_busy": busy / prepared,
        "prepare_gib": watch.peak / GIB,
        "iterate_s": iterated,
        "iterate_gib": second.peak / GIB,
        "tokens_m": int(windows.lengths.sum(dtype="int64")) / 1e6,
        "peak_rss_parent_gib": own.ru_maxrss * 1024 / GIB,
    }
    print(json.dumps(result))


class Watch:
    """Samples the memory of this process and those it started."""

    def __enter__(self) -> "Watch":
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.2):
            self.peak = max(self.peak, sum(map(_pss, [os.getpid(), *_children(os.getpid())])))


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
