"""The synthetic tastes of `preferences.py`: judgements by a rule, and how often a model's responses follow the rule.

Responses are sampled from the model itself, to contexts of the sample's training conversations; the rule likes some of
them. What was learned is measured on responses to contexts of the sample's test conversations.
"""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader
from convmodel.data.reading.reader import ConversationReader
from convmodel.evaluation.wilson import wilson
from convmodel.hf_model.lora import has_adapters, remove_adapters
from convmodel.hf_model.reward_model import attach_reward_model, fit_reward_model
from convmodel.training.improvement import own_turn_settings
from convmodel.training.own_judgements import judge_own_turns
from convmodel.training.self_replay import self_replay

SAMPLE = Path(__file__).parent.parent / "src/convmodel/assets/sample"
TASTES: dict[str, Callable[[str], bool]] = {
    "question": lambda text: text.rstrip().endswith("?"),
    "short": lambda text: len(text.split()) <= 6,
}
RESPONSES = 4  # to each context, to choose pairs from
LEAST = 0.25  # of the thumbs are up, and as many down

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """A model with its sampled responses and what does not change between runs."""

    model: ConversationModel
    weights: dict[str, Any]
    pool: list[tuple[Messages, list[str]]]
    valid: list[Any]
    replay: list[Any]
    new_tokens: int

    @classmethod
    def make(cls, name: str, folder: Path, *, contexts: int, valid: int, new_tokens: int, replay: str) -> "Task":
        """Loads a model, and samples its responses, and what is replayed, unless the folder has them."""
        model = ConversationModel.from_pretrained(name, device="cpu")
        attach_reward_model(model.hf_model, None)
        path = folder / f"responses-{Path(name).name.replace(':', '-')}.json"
        if path.exists():
            pool = json.loads(path.read_text(encoding="utf-8"))
        else:
            chosen = prefixes("train", contexts)
            options = {"do_sample": True, "num_return_sequences": RESPONSES, "max_new_tokens": new_tokens, "seed": 1}
            outputs = model.generate_batch(chosen, **options)
            texts = [[text for text in output.responses if text.strip()] for output in outputs]
            pool = list(zip(chosen, texts, strict=True))
            path.write_text(json.dumps(pool), encoding="utf-8")
        weights = {key: value.detach().clone() for key, value in model.hf_model.state_dict().items()}
        read = {part: list(ConversationReader(SAMPLE / f"{part}.jsonl")) for part in ("valid", "train")}
        if replay == "self":
            judged = [
                Judgement(Conversation.from_messages(one), "assistant", "-")
                for one in (context for context, _ in pool[:40])
            ]
            read["train"] = list(self_replay(model, judged, folder / f"self-{path.stem}", seed=0))
        return cls(model, weights, pool, read["valid"][:valid], read["train"], new_tokens)

    def reset(self) -> None:
        """Restores the weights that the model began with, and removes adapters."""
        if has_adapters(self.model.hf_model):
            remove_adapters(self.model.hf_model, merge=False)
        attach_reward_model(self.model.hf_model, None)
        self.model.hf_model.load_state_dict(self.weights)
        self.model.hf_model.requires_grad_(True)

    def measure(self, test: int | None = None, candidates: int = 0) -> dict[str, Any]:
        """Returns how many of held-out responses follow each rule, how many ended, and the test perplexity."""
        contexts = prefixes("test", 80)
        options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": self.new_tokens, "seed": 7}
        outputs = self.model.generate_batch(contexts, **options)
        texts = [text for output in outputs for text in output.responses]
        counts = {name: sum(map(rule, texts)) for name, rule in TASTES.items()}
        if candidates:
            counts |= self.best(contexts, candidates)
        ended = sum(reason == "stop" for output in outputs for reason in output.finish_reasons)
        conversations = islice(ConversationReader(SAMPLE / "test.jsonl"), test)
        perplexity = self.model.evaluate(list(conversations)).perplexity
        words = sum(len(text.split()) for text in texts) / len(texts)
        distinct = len(set(texts)) / len(texts)
        return counts | {
            "responses": len(texts),
            "ended": ended,
            "words": words,
            "distinct": distinct,
            "perplexity": perplexity,
        }

    def best(self, contexts: list[Messages], candidates: int) -> dict[str, Any]:
        """Returns how many of the best of some candidates follow each rule, and how many there are."""
        options = {"do_sample": True, "max_new_tokens": self.new_tokens, "candidates": candidates, "repeat_weight": 3.0}
        outputs = [*self.model.generate_batch(contexts, seed=7, **options)]
        outputs += self.model.generate_batch(contexts, seed=8, **options)
        texts = [text for output in outputs for text in output.responses]
        return {f"best_{name}": sum(map(rule, texts)) for name, rule in TASTES.items()} | {"best_of": len(texts)}


def prefixes(part: str, count: int) -> list[Messages]:
    """Returns the first 1, 3 or 5 turns of conversations of a part of the sample; of more, others of the same ones."""
    conversations = [each for each in ConversationReader(SAMPLE / f"{part}.jsonl") if len(each.turns) > 6]
    found = []
    for number in range(count):
        turns = conversations[number % len(conversations)].turns
        length = 1 + 2 * ((number + number // len(conversations)) % 3)
        found.append([{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns[:length])])
    return found


def judge(pool: list[tuple[Messages, list[str]]], taste: str, count: int, seed: int, *, pairs: bool) -> list[Any]:
    """Returns thumbs, of one response to a context each, or pairs of two responses, of which the rule likes one."""
    rule, chance = TASTES[taste], random.Random(seed)
    order = chance.sample(range(len(pool)), len(pool))
    found: list[dict[str, Any]] = []
    sides = {True: 0, False: 0}
    for number in order:
        context, responses = pool[number]
        if not responses:
            continue
        line: dict[str, Any] = {"context": context, "responder": "assistant"}
        if pairs:
            both = [[text for text in responses if rule(text) == liked] for liked in (True, False)]
            if not all(both):
                continue
            found.append(line | {"chosen": both[0][0], "rejected": both[1][0], "kind": "pair"})
        else:
            text = chance.choice(responses)
            liked = rule(text)
            if sides[liked] >= count - int(LEAST * count):
                continue
            sides[liked] += 1
            found.append(line | {"chosen" if liked else "rejected": text, "kind": "thumb"})
        if len(found) == count:
            return found
    raise SystemExit(f"only {len(found)} of {count} judgements of taste {taste}: raise --contexts")


def run(
    task: Task, taste: str, count: int, seed: int, settings: dict[str, Any], *, own_turns: bool, **measuring: Any
) -> dict[str, Any]:
    """Learns one taste from judgements, and returns what became of the model; its weights are restored afterwards."""
    settings = dict(settings)
    objective = settings["objective"]
    judgements = judge(task.pool, taste, count, seed, pairs=objective in ("dpo", "orpo"))
    liked = sum("chosen" in each for each in judgements)
    people = [*JudgementReader(judgements)]
    if objective == "reward":
        begin = time.perf_counter()
        attach_reward_model(task.model.hf_model, reward := fit_reward_model(*parts(task.model), people))
        found = {"liked": liked, "auc": reward.auc, "steps": 0, "best_step": 0, "guard": "", "peak_mib": 0, "valid": []}
        found |= {"seconds": time.perf_counter() - begin} | task.measure(**measuring)
        task.reset()
        return found
    if own_turns:
        with tempfile.TemporaryDirectory() as folder:
            reward = fit_reward_model(*parts(task.model), people)
            own = judge_own_turns(*parts(task.model), reward, task.replay, {"assistant"}, folder)
        judgements = [*people, *own]
        settings |= own_turn_settings({}, len(judgements))
    data: dict[str, Any] = {"valid": task.valid, "replay": task.replay}
    if not settings.get("replay_weight", 1.0):
        del data["replay"], settings["replay_weight"]
    if objective == "sft":
        judgements, data = [each for each in judgements if "chosen" in each], {}
    reset_peak()
    begin = time.perf_counter()
    result = task.model.fit(judgements, **data, **settings, seed=seed)
    seconds, peak = time.perf_counter() - begin, peak_mib()
    evals = [log["eval_perplexity"] for log in result.history if "eval_perplexity" in log]
    found = {
        "liked": liked, "steps": result.steps, "best_step": result.best_step, "guard": result.guard,
        "seconds": seconds, "peak_mib": peak, "valid": evals,
    }  # fmt: skip
    if measuring.get("candidates"):
        attach_reward_model(task.model.hf_model, reward := fit_reward_model(*parts(task.model), people))
        found["auc"] = reward.auc
    found |= task.measure(**measuring)
    task.reset()
    return found


def parts(model: ConversationModel) -> tuple[Any, Any]:
    """Returns what functions on a model take."""
    return model.hf_model, model.tokenizer


def reset_peak() -> None:
    """Makes the kernel count the peak memory of this process from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Returns the peak memory of this process since `reset_peak`."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def matrix(task: Task, cells: list[dict[str, Any]], output: Path, **measuring: Any) -> list[dict[str, Any]]:
    """Runs each cell that the file does not have yet, appends a line for each, and returns all lines of the cells."""
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    known = {json.dumps(line["cell"], sort_keys=True): line for line in lines}
    with output.open("a", encoding="utf-8") as file:
        for cell in cells:
            key = json.dumps(cell, sort_keys=True)
            if key in known:
                continue
            if cell.get("before"):
                known[key] = {"cell": cell} | task.measure(**measuring)
            else:
                learned = cell["taste"], cell["count"], cell["seed"], cell["settings"]
                found = run(task, *learned, own_turns=cell.get("own_turns", False), **measuring)
                known[key] = {"cell": cell} | found
            file.write(json.dumps(known[key]) + "\n")
            file.flush()
            print(describe(known[key]), flush=True)
    return [known[json.dumps(cell, sort_keys=True)] for cell in cells]


def describe(line: dict[str, Any]) -> str:
    """Returns one run in a line."""
    cell, total = line["cell"], line["responses"]
    shares = ", ".join(f"{name} {line[name] / total:.2f}" for name in TASTES)
    if "best_of" in line:
        shares += ", best: " + ", ".join(f"{name} {line[f'best_{name}'] / line['best_of']:.2f}" for name in TASTES)
    after = (
        f"{shares}; ended {line['ended'] / total:.2f}, {line['words']:.1f} words, perplexity {line['perplexity']:.2f}"
    )
    if cell.get("before"):
        return f"before: {after}"
    name = f"{cell['taste']} {cell['count']} seed {cell['seed']} {json.dumps(cell['settings'])}"
    name += " own turns" if cell.get("own_turns") else ""
    valid = " ".join(f"{value:.2f}" for value in line["valid"])
    ending = f" STOPPED: {line['guard']}" if line["guard"] else ""
    return f"{name}: {after}; step {line['best_step']} of {line['steps']}, {line['seconds']:.0f} s [{valid}]{ending}"


def print_table(lines: list[dict[str, Any]]) -> None:
    """Prints a row for each taste, number and settings: the means over the seeds, and an interval of all responses."""
    before = next(line for line in lines if line["cell"].get("before"))
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if not line["cell"].get("before"):
            groups.setdefault(json.dumps({**line["cell"], "seed": None}, sort_keys=True), []).append(line)
    print("\n| taste | judgements | settings | share before | after | perplexity | ended | seconds | MiB | stopped |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for runs in groups.values():
        cell = runs[0]["cell"]
        taste, total = cell["taste"], sum(run["responses"] for run in runs)
        low, high = wilson(sum(run[taste] for run in runs), total)
        first = f"{before[taste] / before['responses']:.2f}"
        perplexity = statistics.mean(run["perplexity"] for run in runs)
        change = perplexity / before["perplexity"] - 1
        values = [
            taste,
            cell["count"],
            ", ".join(f"{name} {value}" for name, value in cell["settings"].items()),
            first,
            f"{sum(run[taste] for run in runs) / total:.2f} ({low:.2f}-{high:.2f})",
            f"{before['perplexity']:.2f} -> {perplexity:.2f} ({change:+.1%})",
            f"{sum(run['ended'] for run in runs) / total:.2f}",
            f"{statistics.mean(run['seconds'] for run in runs):.0f}",
            f"{max(run['peak_mib'] for run in runs):.0f}",
            f"{sum(bool(run['guard']) for run in runs)} of {len(runs)}",
        ]
        print("|", " | ".join(map(str, values)), "|")


def ruin(task: Task, settings: dict[str, Any], factor: float) -> int:
    """Learns at a ruinous rate, in memory and into a folder; returns 1 unless the guard undid it bit for bit."""
    settings = settings | {"learning_rate": settings["learning_rate"] * factor}
    judgements = judge(task.pool, "question", 40, 0, pairs=settings["objective"] in ("dpo", "orpo"))
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in (None, str(Path(scratch, "model"))):
            result = task.model.fit(judgements, task.valid, replay=task.replay, output_dir=folder, **settings)
            model = task.model if folder is None else ConversationModel.from_pretrained(folder, device="cpu")
            weights = model.hf_model.state_dict()
            same = weights.keys() == task.weights.keys() and all(
                torch.equal(weights[name], value) for name, value in task.weights.items()
            )
            where = "in memory" if folder is None else "in output_dir"
            kept = "all weights are what they were" if same else "WEIGHTS DIFFER"
            print(f"{where}: step {result.steps}: {result.guard or 'NOT STOPPED'}; {kept}", flush=True)
            failed |= not (same and result.guard)
            task.reset()
    return int(failed)
