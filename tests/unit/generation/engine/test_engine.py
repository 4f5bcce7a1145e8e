"""The engine on token ids: equal to transformers' `generate`, whatever shares its steps and its caches."""

import copy
import gc
import random
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest
import torch
from peft import LoraConfig
from scripted import enliven
from transformers import (
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from convmodel.errors import ConfigError
from convmodel.generation.engine import engine as engine_module
from convmodel.generation.engine import forward as forward_module
from convmodel.generation.engine.engine import Engine
from convmodel.generation.engine.forward import HFForward
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward
from convmodel.generation.engine.prefix_cache import PrefixCache, common_prefix
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.runner import Part, Runner
from convmodel.generation.engine.sampling import Sampler

VOCABULARY = 97
STOP = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": STOP,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=STOP
    ),
    "llama": lambda: LlamaConfig(**SHAPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=8),
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=8, sliding_window=8),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "neox": lambda: GPTNeoXConfig(**{key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}),
}
PROMPTS = [[5, 7, 9, 11], [20, 3], [*range(30, 60)], [8] * 13, [*range(2, 90)]]


def make(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    hf_model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return enliven(hf_model, 8.0)


@pytest.fixture(scope="module")
def models() -> dict[str, PreTrainedModel]:
    return {name: make(config()) for name, config in CONFIGS.items()}


@pytest.fixture(params=CONFIGS)
def hf_model(request: pytest.FixtureRequest, models: dict[str, PreTrainedModel]) -> PreTrainedModel:
    return models[request.param]


@pytest.fixture
def gpt2(models: dict[str, PreTrainedModel]) -> PreTrainedModel:
    return models["gpt2"]


def types_for(hf_model: PreTrainedModel, prompt: Sequence[int]) -> list[int]:
    return [n // 3 % 2 for n in range(len(prompt))] if isinstance(hf_model, GPT2LMHeadModel) else []


def ask(
    hf_model: PreTrainedModel, prompt: Sequence[int], *, new: int = 20, count: int = 1, seed: int = 0, **options: Any
) -> Request:
    return Request(
        prompt,
        types_for(hf_model, prompt),
        [Sampler(options, prompt, [STOP], seed=seed + n) for n in range(count)],
        stop_ids=frozenset([STOP]),
        max_new_tokens=new,
    )


def follow(engine: Engine, request: Request) -> list[list[int]]:
    for _ in engine.follow(request):
        pass
    return [row.tokens for row in request.rows]


def together(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """Follows all requests at once, and returns the first response to each."""
    following = [engine.follow(request) for request in requests]
    while following:
        following = [each for each in following if next(each, following) is None]
    return [request.rows[0].tokens for request in requests]


def by_hf(
    hf_model: PreTrainedModel, prompt: Sequence[int], *, new: int = 20, seed: int = 0, **options: Any
) -> list[int]:
    ids = torch.tensor([list(prompt)])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if types := types_for(hf_model, prompt):
        inputs["token_type_ids"] = torch.tensor([types])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        said = hf_model.generate(**inputs, max_new_tokens=new, eos_token_id=STOP, pad_token_id=0, **options)  # type: ignore[operator]
    found: list[int] = said[0, len(prompt) :].tolist()
    return found[: found.index(STOP)] if STOP in found else found


def watch_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Records the rows and the new tokens of each forward pass."""
    passes: list[tuple[int, int]] = []
    read = Runner.read

    def watched(self: Runner, parts: Sequence[Part]) -> torch.Tensor:
        passes.extend((len(part.ids), max(map(len, part.ids))) for part in parts)
        return read(self, parts)

    monkeypatch.setattr(Runner, "read", watched)
    return passes


# Equal to transformers' `generate`.


def test_greedy_equals_transformers(hf_model: PreTrainedModel) -> None:
    expected = [by_hf(hf_model, prompt, new=40) for prompt in PROMPTS]
    assert [follow(Engine(hf_model), ask(hf_model, prompt, new=40))[0] for prompt in PROMPTS] == expected
    assert len({index for said in expected for index in said}) > 15


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "temperature": 1.7, "top_k": 20},
        {"do_sample": True, "top_p": 0.8, "top_k": 0, "repetition_penalty": 1.3},
        {"do_sample": True, "min_p": 0.05, "typical_p": 0.9, "top_k": 0},
        {"do_sample": True, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02, "top_k": 0},
        {"repetition_penalty": 1.5, "min_new_tokens": 3},
        {"bad_words_ids": [[4], [8, 8]], "suppress_tokens": [5, 6]},
        {"sequence_bias": [[[7], 4.0]], "begin_suppress_tokens": [7]},
        {"prefix_allowed_tokens_fn": lambda row, ids: [*range(10, 30)]},
        {"do_sample": True, "renormalize_logits": True, "top_k": 5},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_way_to_choose_is_that_of_transformers(
    models: dict[str, PreTrainedModel], options: dict[str, Any]
) -> None:
    for name in ("gpt2", "llama"):
        for seed in range(3):
            expected = by_hf(models[name], PROMPTS[2], seed=seed, **options)
            assert follow(Engine(models[name]), ask(models[name], PROMPTS[2], seed=seed, **options)) == [expected]


# What shares steps does not matter.


def test_batched_equals_alone(hf_model: PreTrainedModel) -> None:
    alone = [follow(Engine(hf_model), ask(hf_model, prompt, new=10 + 5 * n))[0] for n, prompt in enumerate(PROMPTS)]
    requests = [ask(hf_model, prompt, new=10 + 5 * n) for n, prompt in enumerate(PROMPTS)]
    assert together(Engine(hf_model), requests) == alone


@pytest.mark.parametrize("max_rows", [1, 2, 3, 32])
def test_sampled_together_is_sampled_alone(hf_model: PreTrainedModel, max_rows: int) -> None:
    options = [{"temperature": 0.7 + n / 3, "top_p": 0.9, "top_k": 0, "do_sample": n != 2} for n in range(5)]

    def requests() -> list[Request]:
        return [
            ask(hf_model, prompt, new=5 + 3 * n, seed=n, **chosen)
            for n, (prompt, chosen) in enumerate(zip(PROMPTS, options, strict=True))
        ]

    alone = [follow(Engine(hf_model), request)[0] for request in requests()]
    assert together(Engine(hf_model, max_rows=max_rows), requests()) == alone


def test_rows_that_join_and_leave_change_no_other(hf_model: PreTrainedModel) -> None:
    expected = follow(Engine(hf_model), ask(hf_model, PROMPTS[3], new=60))[0]
    engine, request = Engine(hf_model), ask(hf_model, PROMPTS[3], new=60)
    others, joined = [], []
    for number, _ in enumerate(engine.follow(request)):
        if number % 7 == 0:
            joined.append(ask(hf_model, PROMPTS[number % 5], new=9 + number))
            others.append(engine.follow(joined[-1]))
            next(others[-1])
        if number % 11 == 10:
            others.pop(0).close()
    assert request.rows[0].tokens == expected
    for other in joined:
        alone = follow(Engine(hf_model), ask(hf_model, other.ids, new=other.max_new_tokens))[0]
        assert 0 < len(other.rows[0].tokens) <= len(alone)
        assert other.rows[0].tokens == alone[: len(other.rows[0].tokens)]


def test_responses_to_one_prompt_share_its_reading(hf_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = PROMPTS[2]
    options: dict[str, Any] = {"do_sample": True, "top_k": 0, "temperature": 1.5}
    alone = [follow(Engine(hf_model), ask(hf_model, prompt, seed=4 + n, **options))[0] for n in range(3)]
    read = watch_passes(monkeypatch)
    assert follow(Engine(hf_model), ask(hf_model, prompt, count=3, seed=4, **options)) == alone
    assert read == [(1, 30)] + [(3, 1)] * 19


def test_rows_that_end_make_place_for_others(hf_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests of all lengths pass through few rows, in the places of those that ended and beside them."""
    draw = random.Random(0)
    asked = [
        ([draw.randrange(2, 90) for _ in range(draw.choice([2, 5, 9, 40]))], draw.randint(1, 30)) for _ in range(40)
    ]
    expected = [follow(Engine(hf_model), ask(hf_model, prompt, new=new))[0] for prompt, new in asked]
    placed = []
    place = KVCache.place
    monkeypatch.setattr(KVCache, "place", lambda self, row, other: placed.append(row) or place(self, row, other))
    requests = [ask(hf_model, prompt, new=new) for prompt, new in asked]

    for _ in Engine(hf_model, max_rows=5).follow_all(requests):
        pass

    assert [request.rows[0].tokens for request in requests] == expected
    assert len(set(placed)) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        GPTNeoConfig(
            **SHAPE | {"max_position_embeddings": 64}, attention_types=[[["global", "local"], 1]], window_size=8
        ),
        MptConfig(vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    ],
    ids=["gpt_neo", "mpt"],
)
def test_padding_takes_no_positions_that_the_model_lacks(config: PretrainedConfig) -> None:
    """These models compute attention with a table that has as many columns as the model has positions."""
    hf_model = make(config)
    asked = [([*range(2, 52)], 13), (PROMPTS[0], 55), (PROMPTS[1], 55)]
    alone = [follow(Engine(hf_model), ask(hf_model, prompt, new=new))[0] for prompt, new in asked]
    requests = [ask(hf_model, prompt, new=new) for prompt, new in asked]
    for _ in Engine(hf_model).follow_all(requests):
        pass
    assert [request.error for request in requests] == [None] * 3
    assert [request.rows[0].tokens for request in requests] == alone
    assert min(map(len, alone[1:])) > 20  # beyond the end of the first one


@pytest.mark.parametrize("shares_weights", [True, False])
def test_short_and_long_responses_have_batches_of_their_own(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, shares_weights: bool
) -> None:
    """Reading padding must not cost more than another part of a pass, or than reading the weights once more."""
    weights = sum(weight.nbytes for weight in gpt2.parameters())
    monkeypatch.setattr(engine_module, "_PART_BYTES", weights if shares_weights else 0)
    monkeypatch.setattr(LeanForward, "shares_weights", shares_weights)
    prompts = [[*range(2, 90)] * 2, [5, 7], [6, 7], [8, 9], [5, 9]]
    alone = [follow(Engine(gpt2), ask(gpt2, prompt))[0] for prompt in prompts]
    requests = [ask(gpt2, prompt) for prompt in prompts]
    passes = watch_passes(monkeypatch)

    for _ in Engine(gpt2).follow_all(requests):
        pass

    assert [request.rows[0].tokens for request in requests] == alone
    assert {(2, 1), (3, 1)} <= {*passes}
    assert max(passes)[0] == 3  # 174 positions of padding are fewer bytes than the limit, 348 are more


@pytest.mark.slow
def test_what_does_not_fit_in_memory_waits(gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MIN_ACTIVE_BYTES", 0)
    weights = sum(weight.nbytes for weight in gpt2.parameters())
    room = 2 * weights // (2 * 2 * 32 * 4)  # positions: 2 layers, keys and values of 32 numbers
    prompts = [[n, *range(2, 90)] for n in range(2, 40)]
    engine, requests = Engine(gpt2), [ask(gpt2, prompt) for prompt in prompts]
    most = 0
    for _ in engine.follow_all(requests):
        most = max(most, engine.load[0])

    assert 1 < most == room // (89 + 20)
    assert [request.rows[0].tokens for request in requests] == [
        follow(Engine(gpt2), ask(gpt2, prompt))[0] for prompt in prompts
    ]


def test_a_long_prompt_is_read_in_pieces_while_others_go_on(
    hf_model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [follow(Engine(hf_model), ask(hf_model, prompt))[0] for prompt in (PROMPTS[0], PROMPTS[4])]
    monkeypatch.setattr(engine_module, "_CHUNK", 16)
    engine, first = Engine(hf_model), ask(hf_model, PROMPTS[0])
    following = engine.follow(first)
    next(following)
    late = ask(hf_model, PROMPTS[4])
    other = engine.follow(late)
    next(other)

    assert len(first.rows[0].tokens) >= 5  # 88 tokens are six pieces
    for each in (following, other):
        assert [*each]
    assert [first.rows[0].tokens, late.rows[0].tokens] == expected


def test_callers_in_many_threads_share_steps(gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [follow(Engine(gpt2), ask(gpt2, prompt, new=50))[0] for prompt in PROMPTS]
    engine, found = Engine(gpt2), {}
    passes = watch_passes(monkeypatch)
    gate = threading.Barrier(len(PROMPTS))

    def work(number: int) -> None:
        gate.wait()
        found[number] = follow(engine, ask(gpt2, PROMPTS[number], new=50))[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [found[number] for number in range(len(PROMPTS))] == expected
    assert max(rows for rows, _ in passes) > 1
    assert engine.load == (0, 0)


# What is remembered does not matter.


def test_cached_equals_uncached_over_ten_turns(hf_model: PreTrainedModel) -> None:
    engine, context, types, read = Engine(hf_model), [5, 6, 7], [0, 0, 1], 0
    for turn in range(10):
        request, alone = (ask(hf_model, context, new=8) for _ in range(2))
        if request.types:
            request.types = alone.types = types
        assert follow(engine, request) == follow(Engine(hf_model), alone)
        assert request.cached_tokens == read
        said = request.rows[0].tokens
        # A last token that the limit ended was said, but not read.
        read = len(context) + len(said) - (request.rows[0].finish_reason == "length")
        context = [*context, *said, 11 + turn, 12, 13]
        types = [*types, *[1] * len(said), 0, 0, 1]
    assert len(engine.caches) == 1


def test_other_types_are_another_prompt(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2)
    follow(engine, ask(gpt2, PROMPTS[4]))
    other = ask(gpt2, PROMPTS[4])
    other.types[50:] = [1 - each for each in other.types[50:]]
    follow(engine, other)
    assert other.cached_tokens == 50


def test_branches_share_what_they_have_in_common(hf_model: PreTrainedModel) -> None:
    engine = Engine(hf_model)
    first = follow(engine, ask(hf_model, PROMPTS[4]))
    again, edited = ask(hf_model, PROMPTS[4]), ask(hf_model, [*PROMPTS[4][:40], 1, 2, 3])
    assert follow(engine, again) == first
    assert follow(engine, edited) == follow(Engine(hf_model), ask(hf_model, [*PROMPTS[4][:40], 1, 2, 3]))
    assert (again.cached_tokens, edited.cached_tokens) == (87, 40)


def test_an_interrupted_response_leaves_a_cache_that_is_right(hf_model: PreTrainedModel) -> None:
    engine, request = Engine(hf_model), ask(hf_model, PROMPTS[2], new=30, suppress_tokens=[STOP])
    with closing(engine.follow(request)) as following:
        for _ in range(7):
            next(following)
    more = [*PROMPTS[2], *request.rows[0].tokens, 4, 4]
    after, alone = ask(hf_model, more), ask(hf_model, more)
    if after.types:
        after.types = alone.types = [*request.types, *request.types[-1:] * (len(more) - 30)]
    assert request.cancelled
    assert follow(engine, after) == follow(Engine(hf_model), alone)
    assert after.cached_tokens == len(more) - 3


@pytest.mark.parametrize("where", ["prompt", "step"])
def test_ctrl_c_between_two_layers_leaves_a_cache_that_is_right(
    hf_model: PreTrainedModel, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, request = Engine(hf_model), ask(hf_model, PROMPTS[2], new=30, suppress_tokens=[STOP])
    inner = "h" if isinstance(hf_model, GPT2LMHeadModel) else "layers"
    layer = hf_model.get_submodule(f"{hf_model.base_model_prefix}.{inner}.1")
    passes = 0

    def press(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == (1 if where == "prompt" else 4):
            raise KeyboardInterrupt

    handle = layer.register_forward_hook(press)
    with pytest.raises(KeyboardInterrupt):
        follow(engine, request)
    handle.remove()
    assert engine.load == (0, 0)
    more = [*PROMPTS[2], *request.rows[0].tokens, 4, 4]
    assert follow(engine, ask(hf_model, more)) == follow(Engine(hf_model), ask(hf_model, more))


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced"])
def test_nothing_is_remembered_of_other_weights(gpt2: PreTrainedModel, change: str) -> None:
    hf_model = copy.deepcopy(gpt2)
    engine = Engine(hf_model)
    follow(engine, ask(hf_model, PROMPTS[2]))
    weight = hf_model.transformer.h[1].attn.c_attn.weight
    if change == "in place":
        with torch.no_grad():
            weight.mul_(-1.0)
    elif change == "loaded":
        hf_model.load_state_dict({name: -value for name, value in hf_model.state_dict().items()})
    else:
        hf_model.transformer.h[1].attn.c_attn.weight = torch.nn.Parameter(-weight.detach())
    request = ask(hf_model, PROMPTS[2])
    assert follow(engine, request) == [by_hf(hf_model, PROMPTS[2])]
    assert request.cached_tokens == 0


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")  # of two adapters
@pytest.mark.parametrize("change", ["disabled", "scaled", "other"])
def test_nothing_is_remembered_of_other_adapters(gpt2: PreTrainedModel, change: str) -> None:
    hf_model = copy.deepcopy(gpt2)
    for name in ("other", "default"):  # the last one is active
        hf_model.add_adapter(LoraConfig(r=4, init_lora_weights=False, fan_in_fan_out=True), name)
    engine = Engine(hf_model)
    before = follow(engine, ask(hf_model, PROMPTS[2]))
    if change == "disabled":
        hf_model.disable_adapters()
    elif change == "scaled":
        for block in hf_model.transformer.h:
            block.attn.c_attn.scale_layer(8.0)
    else:
        hf_model.set_adapter("other")
    request = ask(hf_model, PROMPTS[2])
    after = follow(engine, request)
    assert after == [by_hf(hf_model, PROMPTS[2])] != before
    assert request.cached_tokens == 0


def test_training_changes_what_is_said(gpt2: PreTrainedModel) -> None:
    hf_model = copy.deepcopy(gpt2)
    engine = Engine(hf_model)
    follow(engine, ask(hf_model, PROMPTS[2]))
    optimizer = torch.optim.AdamW(hf_model.parameters(), lr=0.05, fused=True)
    hf_model(input_ids=torch.tensor([PROMPTS[4]]), labels=torch.tensor([PROMPTS[4]])).loss.backward()
    optimizer.step()
    assert follow(engine, ask(hf_model, PROMPTS[2])) == [by_hf(hf_model, PROMPTS[2])]


# Memory.


def test_the_least_recently_used_goes_first(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2, cache_bytes=3 * 110 * 2 * 2 * 32 * 4)  # three prompts of about 100 tokens
    prompts = [[number, *PROMPTS[4]] for number in range(4)]
    for prompt in prompts[:3]:
        follow(engine, ask(gpt2, prompt, new=2))
    follow(engine, ask(gpt2, prompts[0], new=2))
    follow(engine, ask(gpt2, prompts[3], new=2))
    again = [ask(gpt2, prompt, new=1) for prompt in (prompts[0], prompts[3])]
    for request in again:
        follow(engine, request)
    assert [request.cached_tokens for request in again] == [88, 88]
    assert engine.caches.nbytes <= 3 * 110 * 2 * 2 * 32 * 4
    lost = ask(gpt2, prompts[1], new=1)
    follow(engine, lost)
    assert lost.cached_tokens == 0


def test_what_is_not_to_be_remembered_is_not(gpt2: PreTrainedModel) -> None:
    engine, request = Engine(gpt2), ask(gpt2, PROMPTS[2])
    request.remember = False
    follow(engine, request)
    assert len(engine.caches) == 0


def test_cancelled_requests_free_their_memory(hf_model: PreTrainedModel) -> None:
    engine = Engine(hf_model)
    requests = [ask(hf_model, prompt, new=50) for prompt in PROMPTS]
    for request in requests:
        request.remember = False
    following = [engine.follow(request) for request in requests]
    for each in following:
        next(each)
    caches = weakref.WeakSet([batch.cache for batch in engine._batches])
    for each in following:
        each.close()
    gc.collect()
    assert engine.load == (0, 0)
    assert not caches
    assert len(engine.caches) == 0


def test_a_request_that_waits_can_be_cancelled(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2, max_rows=1)
    first = engine.follow(ask(gpt2, PROMPTS[0], new=50))
    next(first)
    waiting = ask(gpt2, PROMPTS[1])
    thread = threading.Thread(target=lambda: follow(engine, waiting))
    thread.start()
    waiting.cancelled = True
    next(first)
    thread.join(10)
    assert not thread.is_alive()
    assert waiting.rows[0].tokens == []
    first.close()
    assert engine.load == (0, 0)


def test_memory_is_flat_over_many_requests(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2, cache_bytes=200_000)
    for number in range(60):
        follow(engine, ask(gpt2, [number, *PROMPTS[3]], new=3))
    assert engine.caches.nbytes <= 200_000
    assert len(engine.caches) > 2


# Errors, limits, what is told.


def test_what_one_request_does_wrong_ends_no_other(gpt2: PreTrainedModel) -> None:
    def fail(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 8:
            raise RuntimeError("out of order")
        return scores

    engine, good = Engine(gpt2), ask(gpt2, PROMPTS[2])
    bad = ask(gpt2, PROMPTS[0], logits_processor=[fail])
    following = engine.follow(good)
    next(following)
    with pytest.raises(RuntimeError, match="out of order"):
        follow(engine, bad)
    assert [*following]
    assert good.rows[0].tokens == by_hf(gpt2, PROMPTS[2])
    assert len(bad.rows[0].tokens) == 5


def test_an_error_of_the_model_is_told_to_all_and_leaves_the_engine_as_new(hf_model: PreTrainedModel) -> None:
    engine = Engine(hf_model)
    requests = [ask(hf_model, prompt) for prompt in PROMPTS[:2]]
    following = [engine.follow(request) for request in requests]
    for each in following:
        next(each)
    handle = hf_model.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    engine.runner.forward = HFForward(hf_model)
    for each in following:
        with pytest.raises(RuntimeError, match="out of memory"):
            for _ in each:
                pass
    handle.remove()
    assert engine.load == (0, 0)
    assert follow(engine, ask(hf_model, PROMPTS[0])) == [by_hf(hf_model, PROMPTS[0])]


def test_log_probabilities_are_the_models(hf_model: PreTrainedModel) -> None:
    request = ask(hf_model, PROMPTS[2], do_sample=True, temperature=2.0, top_k=0, repetition_penalty=1.2)
    [tokens] = follow(Engine(hf_model), request)
    ids = torch.tensor([PROMPTS[2] + tokens])
    types = torch.tensor([request.types_of(request.rows[0])]) if request.types else None
    with torch.no_grad():
        given = {"token_type_ids": types} if types is not None else {}
        logs = hf_model(input_ids=ids, **given).logits.log_softmax(-1)[0]
    expected = [logs[len(PROMPTS[2]) + n - 1, index].item() for n, index in enumerate(tokens)]
    assert request.rows[0].log_probabilities == pytest.approx(expected, abs=1e-3)


def test_a_stop_id_ends_a_response_and_is_no_part_of_it(gpt2: PreTrainedModel) -> None:
    said = by_hf(gpt2, PROMPTS[2])
    end = next(index for n, index in enumerate(said) if n > 3 and index not in said[:n])
    request = ask(gpt2, PROMPTS[2])
    request.stop_ids = frozenset([end])
    assert follow(Engine(gpt2), request) == [said[: said.index(end)]]
    assert (request.rows[0].finish_reason, request.rows[0].ended_by) == ("stop", end)


def test_all_positions_may_be_filled(gpt2: PreTrainedModel) -> None:
    """Rows that have ended are at no position at all, or they would pass the last."""
    engine = Engine(gpt2)
    long = ask(gpt2, [7] * 200, new=57, suppress_tokens=[STOP])
    short = [ask(gpt2, [9] * 100, new=3) for _ in range(2)]
    assert len(together(engine, [long, *short])[0]) == 57


def test_the_models_mode_is_left_alone(gpt2: PreTrainedModel) -> None:
    hf_model = copy.deepcopy(gpt2).train()
    hook = hf_model.register_forward_hook(lambda *_: None)  # so that the model's own pass is used
    assert follow(Engine(hf_model), ask(hf_model, PROMPTS[2])) == [by_hf(gpt2, PROMPTS[2])]
    hook.remove()
    assert all(module.training for module in hf_model.modules())


def test_a_copied_engine_has_a_model_of_its_own(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2)
    follow(engine, ask(gpt2, PROMPTS[2]))
    copied = copy.deepcopy(engine)
    assert copied.hf_model is not gpt2
    assert follow(copied, ask(gpt2, PROMPTS[2])) == [by_hf(gpt2, PROMPTS[2])]


# What goes wrong in one place.


def test_no_memory_for_joining_ends_those_that_would_join(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, first, late = Engine(gpt2), ask(gpt2, PROMPTS[2]), ask(gpt2, PROMPTS[0])
    following = engine.follow(first)
    next(following)
    next(following)
    merge = KVCache.merge

    def fail(parts: Any) -> KVCache:
        if len(parts) > 1:
            raise RuntimeError("out of memory")
        return merge(parts)

    monkeypatch.setattr(KVCache, "merge", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        follow(engine, late)
    assert [*following]
    assert first.rows[0].tokens == by_hf(gpt2, PROMPTS[2])
    assert engine.load == (0, 0)


def test_no_memory_for_remembering_locks_nobody_out(gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(gpt2)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.caches, "put", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        follow(engine, ask(gpt2, PROMPTS[2]))
    monkeypatch.undo()
    assert follow(engine, ask(gpt2, PROMPTS[2])) == [by_hf(gpt2, PROMPTS[2])]


def test_ctrl_c_while_tokens_are_chosen_changes_no_other_response(gpt2: PreTrainedModel) -> None:
    presses = [8]

    def press(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if presses and ids.shape[1] == presses[0]:
            presses.clear()
            raise KeyboardInterrupt
        return scores

    engine, other = Engine(gpt2), ask(gpt2, PROMPTS[2])
    interrupted = ask(gpt2, PROMPTS[0], logits_processor=[press])
    following = engine.follow(other)
    next(following)
    with pytest.raises(KeyboardInterrupt):
        follow(engine, interrupted)
    assert [*following]
    assert other.rows[0].tokens == by_hf(gpt2, PROMPTS[2])


def test_ctrl_c_before_its_turn_loses_no_request(gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, first, second = Engine(gpt2), ask(gpt2, PROMPTS[2]), ask(gpt2, PROMPTS[0])
    waiting = engine.follow(second)
    take = engine.caches.take

    def press(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(engine.caches, "take", take)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.caches, "take", press)
    thread = threading.Thread(target=lambda: [*waiting])
    engine._stepper = threading.get_ident()  # so that the thread waits, and this one makes the steps
    thread.start()
    while engine.load[1] < 1:
        pass
    engine._stepper = None
    with pytest.raises(KeyboardInterrupt):
        follow(engine, first)
    thread.join(30)
    assert second.rows[0].tokens == by_hf(gpt2, PROMPTS[0])


def test_a_processor_that_asks_the_same_model_is_refused(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2)

    def ask_again(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        follow(engine, ask(gpt2, PROMPTS[0]))
        return scores

    with pytest.raises(ConfigError, match="must not generate with the same model"):
        follow(engine, ask(gpt2, PROMPTS[2], logits_processor=[ask_again]))
    assert follow(engine, ask(gpt2, PROMPTS[2])) == [by_hf(gpt2, PROMPTS[2])]


def test_what_was_read_with_other_weights_is_not_remembered_when_a_stream_closes(gpt2: PreTrainedModel) -> None:
    hf_model = copy.deepcopy(gpt2)
    engine = Engine(hf_model)
    open_stream = engine.follow(ask(hf_model, PROMPTS[4], new=60))
    next(open_stream)
    with torch.no_grad():
        hf_model.transformer.wte.weight.mul_(-1.0)
    follow(engine, ask(hf_model, PROMPTS[0]))
    open_stream.close()
    request = ask(hf_model, PROMPTS[4])
    assert follow(engine, request) == [by_hf(hf_model, PROMPTS[4])]
    assert request.cached_tokens == 0


def test_room_for_a_long_response_is_taken_when_it_is_needed(gpt2: PreTrainedModel) -> None:
    engine = Engine(gpt2)
    request = ask(gpt2, PROMPTS[2], new=100_000)
    following = engine.follow(request)
    next(following)
    following.close()
    assert engine.caches.nbytes <= (30 + 256) * 2 * 2 * 32 * 4


# Parts.


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2, 4], 2), ([2], [1], 0), ([1] * 9, [1] * 5, 5)],
)
def test_common_prefix(one: list[int], other: list[int], length: int) -> None:
    assert common_prefix(one, other) == common_prefix(other, one) == length


def test_a_cache_is_given_away_only_if_all_of_it_is_used() -> None:
    caches, cache = PrefixCache(10**6), KVCache(1)
    cache.layers[0].update(torch.ones(1, 1, 8, 2), torch.ones(1, 1, 8, 2))
    caches.put([*range(8)], [], cache)
    part = caches.take([0, 1, 2, 3, 4, 9, 9], [])
    assert part is not None
    assert (part.length, len(caches)) == (5, 1)
    assert caches.take([0, 1, 2, 9, 9], []) is None  # too few to be worth it
    assert caches.take([*range(8), 9], []) is cache
    assert len(caches) == 0


def test_a_request_that_ended_with_its_first_token_holds_no_cache(gpt2: PreTrainedModel) -> None:
    engine, requests = Engine(gpt2), [ask(gpt2, prompt, new=1) for prompt in PROMPTS]
    requests[0].remember = False
    together(engine, requests)
    assert [request.cache for request in requests] == [None] * len(requests)


def test_a_request_that_another_thread_finishes_at_once_is_noticed(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, request = Engine(gpt2), ask(gpt2, PROMPTS[0], new=1)
    add = engine.add

    def add_and_finish(requests: Sequence[Request]) -> None:
        add(requests)
        while engine.step():
            pass

    monkeypatch.setattr(engine, "add", add_and_finish)
    assert len([*engine.follow(request)]) == 1


@pytest.mark.parametrize("where", ["added", "stepper"])
def test_ctrl_c_right_after_a_lock_is_released_locks_nobody_out(
    gpt2: PreTrainedModel, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, request = Engine(gpt2), ask(gpt2, PROMPTS[0])

    class Pressed(threading.Condition):
        pressed = False

        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            stepping = engine._stepper is not None
            if not self.pressed and stepping == (where == "stepper"):
                self.pressed = True
                raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_changed", Pressed())
    with pytest.raises(KeyboardInterrupt):
        follow(engine, request)
    assert request.cancelled
    assert engine.load == (0, 0)
    assert follow(engine, ask(gpt2, PROMPTS[2])) == [by_hf(gpt2, PROMPTS[2])]


def test_ctrl_c_after_a_first_token_was_chosen_changes_no_other_response(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, other = Engine(gpt2), ask(gpt2, PROMPTS[2])
    engine.add([other])
    choose = engine.runner.choose

    def press(*args: Any) -> None:
        choose(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.runner, "choose", press)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.undo()
    while engine.step():
        pass
    assert other.rows[0].tokens == by_hf(gpt2, PROMPTS[2])


def test_ctrl_c_after_the_first_prompt_was_read_ends_no_other_request(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, other = Engine(gpt2), ask(gpt2, PROMPTS[2])
    engine.add([other])
    read = engine._prefill.read

    def press(*args: Any) -> int:
        read(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._prefill, "read", press)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.undo()
    while engine.step():
        pass
    assert other.rows[0].tokens == by_hf(gpt2, PROMPTS[2])


def test_a_cache_that_is_being_kept_while_the_weights_change_is_dropped(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_model = copy.deepcopy(gpt2)
    engine, put = Engine(hf_model), PrefixCache.put
    later = ask(hf_model, PROMPTS[0], new=1)

    def change_weights() -> None:
        with torch.no_grad():
            hf_model.transformer.wte.weight.mul_(-1.0)
        engine.add([later])

    thread = threading.Thread(target=change_weights)

    def slow_put(caches: PrefixCache, *args: Any, **options: Any) -> None:
        if not thread.ident:
            thread.start()
            thread.join(0.5)  # waits for this one, and clears the caches after it
        put(caches, *args, **options)

    monkeypatch.setattr(PrefixCache, "put", slow_put)
    follow(engine, ask(hf_model, PROMPTS[2], new=3))
    thread.join(30)
    monkeypatch.undo()
    again = ask(hf_model, PROMPTS[2])
    assert follow(engine, again) == [by_hf(hf_model, PROMPTS[2])]
    assert again.cached_tokens == 0


def test_an_engine_that_never_generates_takes_any_model(gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one whose config does not say how many layers it has; it can still be trained."""
    monkeypatch.setattr(forward_module, "HFForward", lambda hf_model: hf_model.config.n_head_layers)
    engine = Engine(gpt2)
    with pytest.raises(AttributeError, match="n_head_layers"):
        follow(engine, ask(gpt2, PROMPTS[0]))
