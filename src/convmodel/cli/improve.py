"""`convmodel improve`: from judgements to a better model.

Owns: the order of its parts and what it prints. What is chosen for users who choose nothing is in
`training.improvement`, the training in `training.fit`.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import check_output_dir, load_model, print_json, print_message, print_table, program
from convmodel.cli.fit_options import with_fit_options
from convmodel.cli.improve_sources import chosen_replay, validation
from convmodel.data.judgements.reader import JudgementReader, JudgementSummary
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.files.hub import CHITCHAT, sample_file
from convmodel.training.config import FitConfig
from convmodel.training.improvement import (
    HELD_OUT_FILE,
    MIN_JUDGEMENTS,
    NO_REPLAY,
    RECORD,
    SELF_REPLAY,
    SETTINGS,
    SNAPSHOT,
    Improvement,
    Judgements,
    Quality,
    needed,
    own_turn_settings,
    run_settings,
)
from convmodel.training.own_judgements import FILE as OWN_FILE
from convmodel.training.own_judgements import judge_own_turns
from convmodel.training.resume.run_folder import is_unfinished
from convmodel.training.self_replay import FILE as REPLAY_FILE
from convmodel.training.self_replay import self_replay
from convmodel.training.units import duration

if TYPE_CHECKING:
    from convmodel.data.judgements.judgement import Judgement
    from convmodel.hf_model.reward_model import RewardModel
    from convmodel.model import ConversationModel

IMPROVED_MODEL = "improved-model"
_OWN_FILES = (SNAPSHOT, RECORD, REPLAY_FILE, OWN_FILE)  # that a new run replaces in its folder
_FLAGS = (
    "objective", "epochs", "max_steps", "batch_size", "learning_rate", "beta", "sft_weight", "label_smoothing",
    "max_regression", "replay_weight", "regeneration_weight", "lora", "merge", "max_length", "precision", "seed",
    "eval_steps", "output_dir", "resume",
)  # fmt: skip


def _improve(
    model: Annotated[str, Argument(help=flags.MODEL_HELP, metavar="MODEL")],
    *,
    feedback: flags.Feedback,
    valid: Annotated[
        str | None,
        Option(help="Ordinary conversations in which the model must not become worse. [default: the sample's]"),
    ] = None,
    replay: Annotated[
        str | None,
        Option(
            help="Ordinary conversations that are trained on beside the judgements, so that they are not forgotten: a "
            "file, `self` for some that the model has with itself, or `none`. "
            f"[default: self for {CHITCHAT}, none for other models]"
        ),
    ] = None,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    overwrite: flags.StartOver = False,
    as_json: flags.Json = False,
    settings: dict[str, Any],
) -> None:
    """Improve a model by what people thought of its responses: thumbs, corrections, votes.

    `convmodel improve model --feedback feedback.jsonl --output-dir better`

    Trains on the judgements and watches that the model does not become worse in ordinary conversation; if it would, the
    run stops and keeps the last good model. Adapters (LoRA) are trained and merged into the model at the end; --no-lora
    trains all weights. The settings suit 20 to 200 judgements; options change them. If the command was stopped, the
    same command resumes. See docs/preferences.md.
    """
    if settings.get("objective") == "sft":
        raise ConfigError("sft learns from good responses only: use `convmodel fit`, or objective kto, dpo or orpo")
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ConfigError("improve runs in one process: use `convmodel fit --objective kto` in several")
    flags.require_one_stdin(*feedback, valid, replay)
    restart = {"resume": False} if overwrite else {}
    config = FitConfig.from_options({"output_dir": IMPROVED_MODEL} | run_settings(settings) | restart)
    folder = str(config.output_dir)
    _check_sources([*feedback, valid, replay], folder)
    if overwrite or not is_unfinished(folder):
        # Judgements without a record are of a run that was ended while it wrote its last files: it begins again.
        is_half_done = Path(folder, SNAPSHOT).exists() and not Path(folder, RECORD).exists()
        ignored = _OWN_FILES if is_half_done else [SNAPSHOT]
        check_output_dir(folder, overwrite=overwrite or is_half_done, ignored=ignored)
        _remove_own(folder)
    elif config.resume is False:
        _remove_own(folder)
    reading = {"on_error": on_error, "regeneration_weight": config.regeneration_weight}
    judgements = Judgements.split(Judgements.read(feedback, folder, reading), seed=config.seed)
    _advise(judgements)
    conversation_model = load_model(model)
    valid_reader = validation(valid, format, on_error)
    others = valid_reader if valid else ConversationReader(sample_file("test"))
    if valid is None:
        print_message("Validation: the sample's conversations, in English; --valid gives others.")
    elif leaked := sum(map(judgements.has_context, valid_reader)):
        print_message(f"{leaked:,} of the validation conversations begin with the context of a judgement: remove them.")
    opening = partial(flags.open_reader, format=format, on_error=on_error)
    sample = partial(self_replay, conversation_model, judgements.train, folder, seed=config.seed)
    replay_reader = _replayed(model, replay, sample, opening)
    learned = judgements.train
    if replay_reader is not None and config.objective == "kto" and chosen_replay(model, replay) == SELF_REPLAY:
        own = _own_judgements(conversation_model, judgements.train, replay_reader, folder)
        if own:
            learned = [*judgements.train, *own]
            config = replace(config, **own_turn_settings(settings, len(learned)))
    print_message(f"Improving {model} on {len(learned):,} judgements: {config.describe()}")
    reader = JudgementReader(learned, regeneration_weight=1)  # their weights are what was read
    result = conversation_model.fit(reader, valid_reader, replay=replay_reader, config=config)
    reward = _fit_reward(conversation_model, judgements.train, folder)
    improvement = Improvement.of(model, config.objective, judgements, result, None if reward is None else reward.auc)
    improvement.write(folder, judgements.comparison(others))
    if as_json:
        print_json({**asdict(improvement), "output_dir": folder})
    else:
        _print(improvement, folder)
    from convmodel.training.sharding import exit_of_group  # imports torch, which `fit` has loaded by now

    exit_of_group()


def _remove_own(folder: str) -> None:
    """Removes what an earlier run read, and what it reported."""
    for file in _OWN_FILES:
        Path(folder, file).unlink(missing_ok=True)


def _check_sources(sources: Iterable[str | None], folder: str) -> None:
    """Raises `ConfigError` if the run would replace a file that it is to read."""
    own = [Path(folder, file).resolve() for file in _OWN_FILES]
    for source in sources:
        if source and Path(source).resolve() in own:
            raise ConfigError(f"{source} would be replaced: give another --output-dir, or move the file")


def _replayed(
    model: str,
    replay: str | None,
    sample: Callable[[], ConversationReader],
    open_file: Callable[[str], ConversationReader],
) -> ConversationReader | None:
    """Opens the conversations to replay: those of a file, some that are sampled from the model, or none."""
    chosen = chosen_replay(model, replay)
    if chosen == SELF_REPLAY:
        return sample()
    if chosen != NO_REPLAY:
        return open_file(chosen)
    if replay is None:
        fix = "--replay FILE, such as the training data, or --replay self protects what the model can do"
        print_message(f"Nothing is replayed: {fix}.")
    return None


def _advise(judgements: Judgements) -> None:
    """Prints what is missing for a run that is worth its time."""
    counts = JudgementSummary()
    for judgement in judgements.train:
        counts.add(judgement)
    if missing := needed(counts.pairs, counts.liked, counts.disliked):
        print_message(
            f"{counts.judgements} judgements are few: {missing} would help; from {MIN_JUDGEMENTS} on a model learns "
            "something."
        )


def _own_judgements(
    model: "ConversationModel", judgements: "Sequence[Judgement]", talks: ConversationReader, folder: str
) -> "list[Judgement]":
    """Lets a reward model judge what the model says to itself; nothing, if it would be no better than chance."""
    if (reward := _reward_model(model, judgements)) is None:
        return []
    responders = {each.responder for each in judgements}
    own = judge_own_turns(model.hf_model, model.tokenizer, reward, talks, responders, folder)
    liked = sum(each.rejected is None for each in own)
    print_message(
        f"The reward model of the judgements (AUC {reward.auc:.2f}) likes {liked:,} of {len(own):,} turns that the "
        "model said to itself; they are learned from, too."
    )
    return own


def _reward_model(model: "ConversationModel", judgements: "Sequence[Judgement]") -> "RewardModel | None":
    """Fits a reward model, unless it would be no better than chance."""
    from convmodel.hf_model.reward_model import fit_reward_model

    if not all(any(getattr(each, side) for each in judgements) for side in ("chosen", "rejected")):
        return None
    reward = fit_reward_model(model.hf_model, model.tokenizer, judgements)
    return reward if reward.is_informative else None


def _fit_reward(model: "ConversationModel", judgements: "Sequence[Judgement]", folder: str) -> "RewardModel | None":
    """Fits the reward model of the new model and saves it beside it."""
    from convmodel.hf_model.reward_model import attach_reward_model

    if (reward := _reward_model(model, judgements)) is None:
        print_message("No reward model: these judgements do not suffice to predict others better than chance.")
        return None
    reward.save(folder)
    attach_reward_model(model.hf_model, reward)
    return reward


def _print(done: Improvement, folder: str) -> None:
    """Prints what was reached, and the commands to try next."""
    both = done.before, done.after
    rows = [("validation perplexity", *(_shown(quality.perplexity, "{:.2f}") for quality in both))]
    rows.append(("responses that end by themselves", *map(_ended, both)))
    print_table((folder, "before", "after"), rows)
    if not done.steps:
        print_message(f"The model is what it was: {done.guard or 'nothing was learned'}. Lower --learning-rate.")
        return
    stopped = f"; the guard stopped it then, since {done.guard}" if done.guard else ""
    print_message(f"Kept the model after step {done.steps:,}, in {duration(done.seconds)}{stopped}.")
    if remark := _fewer_ends(*both):
        print_message(remark)
    if done.reward_auc is not None:
        print_message(
            f"Its reward model prefers the liked one of a liked and a disliked response, both new to it, in "
            f"{done.reward_auc:.0%} of all cases. It orders candidates: /set candidates 16 in the chat draws some."
        )
    data = Path(folder, HELD_OUT_FILE)
    print_message(f"Compare blind:  {program()} compare {done.model} {folder} --data {data} --votes votes.jsonl")
    print_message(f"Chat with it:   {program()} chat --model {folder}")


def _shown(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _ended(quality: Quality) -> str:
    return f"{quality.ended} of {quality.responses}" if quality.responses else _shown(quality.ends, "{:.0%}")


def _fewer_ends(before: Quality, after: Quality) -> str:
    """Explains why the guard accepted that fewer responses end by themselves; empty if it had enough of them."""
    from convmodel.training.objectives.guard import CONTEXTS  # imports torch, which `fit` has loaded by now

    if before.ends is None or after.ends is None or after.ends >= before.ends or after.responses >= CONTEXTS:
        return ""
    return (
        f"Fewer responses end by themselves: {_ended(after)}, {_ended(before)} before. With so few responses, this "
        f"may be chance, and the guard cannot tell: give more validation conversations (up to {CONTEXTS} are used)."
    )


command = with_fit_options(_improve, only=_FLAGS, defaults={"output_dir": IMPROVED_MODEL} | SETTINGS)
