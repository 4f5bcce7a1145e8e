"""Checks on one GPU what is tested on a CPU, and measures speeds there; prints a table in Markdown.

    python scripts/gpu_check.py [--device cuda] [--minutes 6]

Needs nothing but this repository: models have random weights, and conversations are the sample's. `--device cpu` is a
trial of the script with tiny models. Speeds are compared with those of transformers: `fit` with `Trainer`, and eight
clients with `generate`, one after the other and as a batch.
"""

import argparse
import contextlib
import io
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, TrainerCallback

from convmodel import ConversationModel
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.collate import pack, pad
from convmodel.errors import ConfigError, StoppedError
from convmodel.generation.engine.engine import Engine
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.sampling import Sampler
from convmodel.training.step.forward import prepared

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "src/convmodel/assets/sample"
BUILTIN = "builtin:chitchat"
CLIENTS = 8


class Result(NamedTuple):
    """A row of the table."""

    name: str
    found: str
    bound: str
    is_right: bool


class Setting(NamedTuple):
    """What is checked: the device, the shapes of models, and until when."""

    device: torch.device
    is_small: bool
    end: float

    def config(self, kind: str, vocabulary: int) -> PretrainedConfig:
        ids = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        if kind == "gpt2":
            width, layers = (32, 2) if self.is_small else (768, 12)
            return GPT2Config(n_embd=width, n_layer=layers, n_head=4, n_positions=512, **ids)
        width, layers = (32, 2) if self.is_small else (576, 30)
        heads = {"num_attention_heads": 4 if self.is_small else 9, "num_key_value_heads": 2 if self.is_small else 3}
        return LlamaConfig(
            hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers, **heads, **ids
        )

    def model(self, kind: str, dtype: torch.dtype = torch.float32) -> ConversationModel:
        tokenizer = ConversationModel.from_pretrained(BUILTIN, device="cpu").tokenizer
        model = ConversationModel.from_config(self.config(kind, len(tokenizer)), tokenizer, device=self.device)
        model.hf_model.to(dtype)
        return model

    def conversations(self, count: int) -> list[Any]:
        return list(islice(ConversationReader(SAMPLE / "train.jsonl"), count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here; --device cpu tries the script.")
    setting = Setting(device, device.type == "cpu", time.monotonic() + 60 * options.minutes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, tiny models"
    print(f"{name}, torch {torch.__version__}\n\n| check | found | bound | |\n|---|---|---|---|")
    results = list(run(setting))
    wrong = [result.name for result in results if not result.is_right]
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


def run(setting: Setting) -> Iterator[Result]:
    """Runs the checks, each of which may fail without ending the others, until the time is over."""
    checks = (fits, packed, cached, batched, resumed, quantized, training_speed, serving_speed)
    for check in checks:
        if time.monotonic() > setting.end:
            print(f"| {check.__name__} | not run: the time was over | | |", flush=True)
            continue
        try:
            for result in check(setting):
                mark = "" if result.is_right else "**wrong**"
                print(f"| {result.name} | {result.found} | {result.bound} | {mark} |", flush=True)
                yield result
        except Exception as error:
            message = " ".join(str(error).split())[:150].replace("|", "/")
            print(f"| {check.__name__} | {type(error).__name__}: {message} | | **wrong** |", flush=True)
            yield Result(check.__name__, message, "", False)


def quietly(function: Callable[..., Any], **options: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(**options)


def fits(setting: Setting) -> Iterator[Result]:
    """Fine-tuning in each precision, packed or not, with and without LoRA: the loss is finite and falls."""
    precisions = ("fp32",) if setting.is_small else ("bf16", "fp16")
    for kind in ("gpt2", "llama"):
        for precision in precisions:
            for packing, lora in ((False, False), (True, False), (True, True)):
                model = setting.model(kind)
                talks, steps = setting.conversations(64), 8
                before = quietly(model.evaluate, data=talks[:16]).loss
                fitted = quietly(
                    model.fit, train=talks, max_steps=steps, batch_size=8, learning_rate=1e-3, precision=precision,
                    packing=packing, lora=lora, max_length=128, seed=0,
                )  # fmt: skip
                after = quietly(model.evaluate, data=talks[:16]).loss
                name = f"fit {kind} {precision}{', packed' if packing else ''}{', LoRA' if lora else ''}"
                found = f"loss {before:.3f} to {after:.3f}, {fitted.tokens_per_second:,.0f} tokens per second"
                yield Result(name, found, "falls", bool(after < before))


def packed(setting: Setting) -> Iterator[Result]:
    """Windows packed into a row have the loss and the gradients of a batch."""
    for kind in ("gpt2", "llama"):
        model = setting.model(kind)
        use_token_types = model.tokenizer.layout.use_token_types
        batches = model.tokenizer.windows_batch(setting.conversations(6), max_length=128)
        windows = [window for batch in batches for window in batch][:6]
        in_rows = pad(windows, model.tokenizer.pad_token_id, use_token_types=use_token_types)
        in_one_row = pack([windows], use_token_types=use_token_types)
        found = []
        for batch in (in_rows, in_one_row):
            model.hf_model.zero_grad()
            with prepared(model.hf_model):
                inputs = {name: tensor.to(setting.device) for name, tensor in batch.items()}
                loss = model.hf_model(**inputs, total_weight=100.0)
                loss.backward()
            gradients = [value.grad.flatten() for value in model.hf_model.parameters() if value.grad is not None]
            found.append((loss.item(), torch.cat(gradients)))
        (loss_of_rows, right), (loss_of_one, gradient) = found
        worst = max(abs(loss_of_one / loss_of_rows - 1), ((gradient - right).norm() / right.norm()).item())
        yield Result(f"packed against a batch, {kind}", f"{worst:.1e} of loss and gradients", "1e-3", worst < 1e-3)


def cached(setting: Setting) -> Iterator[Result]:
    """The log-probabilities of generated tokens are those of a forward pass over the whole sequence."""
    for kind in ("gpt2", "llama"):
        for dtype in (torch.float32,) if setting.is_small else (torch.float32, torch.bfloat16):
            model = setting.model(kind, dtype)
            ids = [5 + 7 * n % 50 for n in range(40)]
            request = make_request(model, ids, 24)
            follow(model, [request])
            row = request.rows[0]
            whole = torch.tensor([ids + row.tokens], device=setting.device)
            arguments = {"token_type_ids": torch.zeros_like(whole)} if model.tokenizer.layout.use_token_types else {}
            with torch.inference_mode():
                logits = model.hf_model(whole, **arguments, use_cache=False).logits[0].float().log_softmax(-1)
            places = torch.arange(len(ids) - 1, len(ids) + len(row.tokens) - 1)
            right = logits[places, row.tokens].cpu()
            worst = (right - torch.tensor(row.log_probabilities)).abs().max().item()
            bound, name = 1e-3 if dtype == torch.float32 else 0.2, f"cached against uncached, {kind}, {dtype}"
            yield Result(name, f"{worst:.1e} nats", f"{bound:g}", worst < bound)


def batched(setting: Setting) -> Iterator[Result]:
    """Eight responses at once are those of each alone."""
    for kind in ("gpt2", "llama"):
        model = setting.model(kind)
        prompts = [[5 + (7 * n + k) % 50 for n in range(6 + 9 * k)] for k in range(CLIENTS)]
        alone = [make_request(model, ids, 24) for ids in prompts]
        for request in alone:
            follow(model, [request])
        together = [make_request(model, ids, 24) for ids in prompts]
        follow(model, together)
        equal = sum(one.rows[0].tokens == other.rows[0].tokens for one, other in zip(alone, together, strict=True))
        least = CLIENTS - 1  # sums are rounded differently, which may decide between two tokens as likely
        yield Result(f"batch against single, {kind}", f"{equal} of {CLIENTS} equal", f"{least}", equal >= least)


class Stop(TrainerCallback):
    """Stops a run after its second step, as Ctrl-C does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)


def resumed(setting: Setting) -> Iterator[Result]:
    """A run that was stopped and resumed ends with the weights of one that was not."""
    options: dict[str, Any] = {"batch_size": 4, "max_length": 128, "seed": 0, "precision": "fp32", "max_steps": 4}
    options["train"] = setting.conversations(32)
    whole = setting.model("gpt2")
    with tempfile.TemporaryDirectory() as folder:
        quietly(whole.fit, output_dir=f"{folder}/whole", **options)
        with contextlib.suppress(StoppedError):
            quietly(setting.model("gpt2").fit, output_dir=f"{folder}/stopped", callbacks=[Stop()], **options)
        again = setting.model("gpt2")
        quietly(again.fit, output_dir=f"{folder}/stopped", **options)
    pairs = zip(whole.hf_model.parameters(), again.hf_model.parameters(), strict=True)
    worst = max((one - other).abs().max().item() for one, other in pairs)
    yield Result("resumed against uninterrupted, weights", f"{worst:.1e}", "1e-5", worst <= 1e-5)


def quantized(setting: Setting) -> Iterator[Result]:
    """int8 weights are for CPUs: refused elsewhere."""
    model = setting.model("llama")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        try:
            small = ConversationModel.from_pretrained(folder, device=setting.device, quantize="int8")
        except ConfigError as error:
            yield Result("int8", f"refused: {str(error)[:60]}", "refused", setting.device.type != "cpu")
            return
        ids = torch.arange(5, 25)[None]
        with torch.inference_mode():
            right, found = (each.hf_model(ids, use_cache=False).logits for each in (model, small))
        worst = ((right - found).norm() / right.norm()).item()
        yield Result("int8", f"{worst:.1e} of the logits", "0.05", worst < 0.05)


def training_speed(setting: Setting) -> Iterator[Result]:
    """Tokens per second of `fit` and of transformers' Trainer on the same windows."""
    count, steps = (32, 2) if setting.is_small else (800, 12)
    precision = "fp32" if setting.is_small else "bf16"
    model = setting.model("llama")
    talks = setting.conversations(count)
    options: dict[str, Any] = {"max_steps": steps, "batch_size": 16, "packing": True, "max_length": 512}
    fitted = quietly(model.fit, train=talks, precision=precision, seed=0, **options)
    theirs = trainer_speed(setting, talks, steps, precision == "bf16")
    ratio = fitted.tokens_per_second / theirs
    found = f"{fitted.tokens_per_second:,.0f} and {theirs:,.0f} tokens per second: {ratio:.2f} times"
    yield Result("fit against transformers' Trainer", found, "reported", True)


def trainer_speed(setting: Setting, talks: list[Any], steps: int, bf16: bool) -> float:
    """Returns the tokens without padding per second of a plain Trainer, which pads batches of conversations."""
    from transformers import Trainer, TrainingArguments

    model = setting.model("llama")
    windows = [window for each in model.tokenizer.windows_batch(talks, max_length=512) for window in each]

    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        longest = max(len(each["input_ids"]) for each in batch)
        fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
        return {n: torch.tensor([e[n] + [v] * (longest - len(e[n])) for e in batch]) for n, v in fill.items()}

    rows = [{"input_ids": w.input_ids, "labels": w.labels, "attention_mask": [1] * len(w.input_ids)} for w in windows]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, bf16=bf16, report_to=[], save_strategy="no",
            logging_strategy="no", use_cpu=setting.device.type == "cpu", disable_tqdm=True, dataloader_num_workers=0,
        )  # fmt: skip
        trainer = Trainer(model.hf_model, arguments, data_collator=collate, train_dataset=rows)
        quietly(trainer.train)
        begin = time.perf_counter()
        quietly(trainer.train)
        seconds = time.perf_counter() - begin
    tokens = statistics.mean(len(row["input_ids"]) for row in rows) * 16 * steps
    return tokens / seconds


def serving_speed(setting: Setting) -> Iterator[Result]:
    """Tokens per second of eight clients at once, against `generate` one by one and as a batch."""
    new = 16 if setting.is_small else 128
    model = setting.model("llama", torch.float32 if setting.is_small else torch.bfloat16)
    prompts = [[5 + (7 * n + k) % 50 for n in range(32)] for k in range(CLIENTS)]

    def ours() -> None:
        follow(model, [make_request(model, ids, new) for ids in prompts])

    def one_by_one() -> None:
        for ids in prompts:
            generate(model, [ids], new)

    speeds = {}
    for name, work in (("ours", ours), ("one by one", one_by_one), ("batch", lambda: generate(model, prompts, new))):
        work()
        begin = time.perf_counter()
        work()
        speeds[name] = CLIENTS * new / (time.perf_counter() - begin)
    found = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
    yield Result("eight clients, tokens per second", found, "reported", True)


def make_request(model: ConversationModel, ids: list[int], new: int) -> Request:
    types = [0] * len(ids) if model.tokenizer.layout.use_token_types else []
    request = Request(ids, types, [Sampler({}, ids, [])], stop_ids=frozenset(), max_new_tokens=new)
    request.remember = False
    return request


def follow(model: ConversationModel, requests: list[Request]) -> None:
    for _ in Engine(model.hf_model).follow_all(requests):
        pass
    for request in requests:
        if request.error is not None:
            raise request.error


def generate(model: ConversationModel, prompts: list[list[int]], new: int) -> None:
    ids = torch.tensor(prompts, device=model.hf_model.device)
    options: Any = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    model.hf_model.generate(ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]


if __name__ == "__main__":
    main()
