"""`convmodel reward`: fits a reward model to judgements, and says how well it predicts others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from convmodel.cli import flags
from convmodel.cli.console import load_model, print_json, print_message, print_table, program
from convmodel.data.judgements.reader import JudgementReader, latest_thumbs
from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from convmodel.hf_model.reward_model import RewardModel


def command(
    model: Annotated[str, Argument(help="Folder of a model; the reward model is saved there.", metavar="MODEL")],
    *,
    feedback: flags.Feedback,
    on_error: flags.OnError = "fail",
    as_json: flags.Json = False,
) -> None:
    """Fit a reward model, which predicts what people like, to order the candidates of a response by it.

    `convmodel reward model --feedback feedback.jsonl`

    `convmodel generate "Hello" --temperature 0.8 --option candidates=16 --model model`

    It is a logistic regression on the model's hidden states, so a few dozen judgements suffice, and the model itself
    does not change. AUC is the probability that of a liked and a disliked response, both new to it, the liked one has
    the higher score; one half is chance.
    """
    from convmodel.hf_model.reward_model import fit_reward_model

    if not Path(model).is_dir():
        raise ConfigError(
            f"{model} is not a folder: save the model in one first, since the reward model is saved there"
        )
    flags.require_one_stdin(*feedback)
    reading: dict[str, Any] = {"on_error": on_error}
    readers = [JudgementReader(source, **reading) for source in feedback]
    judgements, replaced = latest_thumbs(judgement for reader in readers for judgement in reader)
    for source, reader in zip(feedback, readers, strict=True):
        print_message(f"{source}: {reader.describe()}")
        if left_out := reader.left_out():
            print_message(f"{source}: {left_out}", style="yellow")
    if replaced:
        print_message(f"{replaced:,} thumbs were replaced by later ones on the same responses")
    loaded = load_model(model)
    reward = fit_reward_model(loaded.hf_model, loaded.tokenizer, judgements)
    reward.save(model)
    if as_json:
        facts = {"liked": reward.liked, "disliked": reward.disliked, "auc": reward.auc}
        print_json(facts | {"auc_error": None if reward.auc is None else reward.auc_error})
        return
    rows = [("liked responses", f"{reward.liked:,}"), ("disliked responses", f"{reward.disliked:,}")]
    print_table(("", model), [*rows, ("AUC on responses that are new to it", _auc(reward))])
    if not reward.is_informative:
        print_message("That may be chance: more judgements would help.", style="yellow")
    print_message(f"Use it:  {program()} chat --model {model}, in which /set candidates 16 draws some to choose from")


def _auc(reward: "RewardModel") -> str:
    if reward.auc is None:
        return "unknown: too few contexts"
    low, high = reward.auc_interval
    return f"{reward.auc:.2f} ({max(0.0, low):.2f} to {min(1.0, high):.2f})"
