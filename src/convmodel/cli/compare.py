"""`convmodel compare`: a blind comparison of two models' responses.

Owns: the dialogue with the judge. The file of votes and their count are `evaluation.votes`'.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import load_model, print_json, print_message, print_result
from convmodel.cli.streams import read_line
from convmodel.conversation import Conversation
from convmodel.data.progress import ProgressBar, console
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.evaluation.votes import Vote, Wins, add_vote, count_wins, read_votes
from convmodel.generation.defaults import TEMPERATURE, TOP_P

_SHOWN_TURNS = 6


def command(
    first: Annotated[str, Argument(help=flags.MODEL_HELP, metavar="MODEL")],
    second: Annotated[str, Argument(help="The model to compare it with.", metavar="MODEL")],
    *,
    data: flags.Data,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    number: Annotated[int, Option("--number", "-n", min=1, help="Number of contexts to judge.")] = 20,
    votes: Annotated[str, Option("--votes", "-o", help="JSONL file to append the votes to.")] = "votes.jsonl",
    greedy: flags.Greedy = False,
    temperature: flags.Temperature = TEMPERATURE,
    top_p: flags.TopP = TOP_P,
    max_new_tokens: flags.MaxNewTokens = None,
    seed: Annotated[int, Option(min=0, help="Seed of the choice of contexts, their sides, and sampling.")] = 0,
    quantize: flags.Quantize = None,
    layout: flags.Layout = "auto",
    as_json: flags.Json = False,
) -> None:
    """Compare two models blind: see their responses side by side without names, and vote for the better one.

    `convmodel compare old new --data test.jsonl`

    Answer 1 or 2 for the better response, 0 for neither, q to quit. Earlier votes in the same file count too, and
    contexts that you already judged are not shown again. Identical responses are counted, but not shown.
    """
    if data == "-":
        raise ConfigError("--data - leaves no standard input for your votes: give a file")
    if first == second:
        raise ConfigError(f"{first} cannot be compared against itself: give two models")
    earlier = [vote for vote in read_votes(votes) if not (vote.winner is None and _is_identical(vote))]
    options = flags.sampling_options(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    conversations = [*flags.open_reader(data, format, on_error)]
    pairs = _generate_pairs((first, second), conversations, number, seed, options, quantize=quantize, layout=layout)
    judged = {_key(vote) for vote in earlier}
    unjudged = [pair for pair in pairs if _key(pair) not in judged]
    shown = [pair for pair in unjudged if not _is_identical(pair)]
    identical = len(unjudged) - len(shown)
    new = _collect_votes(shown, votes, random.Random(seed))
    wins, left = count_wins([*earlier, *new], first, second), len(shown) - len(new)
    if as_json:
        print_json({"first": first, "second": second} | asdict(wins) | {"identical": identical, "left": left})
    else:
        more = "raise --number, or give" if len(pairs) == number else "give"
        print_result(_summary(wins, (first, second), identical, "" if left else f"{more} more conversations in --data"))


def _key(vote: Vote) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns what was judged: a context, and two models in either order."""
    return tuple(vote.context.turns), tuple(sorted(vote.models))


def _is_identical(vote: Vote) -> bool:
    """Returns whether both responses are the same: nobody can judge them."""
    return vote.responses[0].strip() == vote.responses[1].strip()


def _generate_pairs(
    models: tuple[str, str],
    conversations: list[Conversation],
    number: int,
    seed: int,
    options: dict[str, object],
    **loading: str | None,
) -> list[Vote]:
    """Generates the responses of both models to the same contexts, as votes without a winner."""
    from convmodel.report.evaluation.evaluate import choose_contexts, generate_exchanges
    from convmodel.report.evaluation.model_evaluation import Settings

    settings = Settings(generation=options, seed=seed)
    chosen = choose_contexts(conversations, number, seed)
    responses = []
    for name in models:
        model = load_model(name, **loading)
        with ProgressBar("generating", unit="responses") as bar:
            bar.update(note=name)
            responses.append(generate_exchanges(model, conversations, chosen, settings, bar.show)[0])
    return [
        Vote(first.context, models, [first.response, second.response], None)
        for first, second in zip(*responses, strict=True)
    ]


def _collect_votes(pairs: Sequence[Vote], path: str, rng: random.Random) -> list[Vote]:
    """Shows pair after pair, in random order within each, and appends every vote to the file at once."""
    votes: list[Vote] = []
    for number, pair in enumerate(pairs, 1):
        sides = rng.sample((0, 1), 2)
        console.rule(f"{number} of {len(pairs)}")
        for turn in pair.context.turns[-_SHOWN_TURNS:]:
            print_message(f"  {turn}")
        for choice, side in enumerate(sides, 1):
            print_message(f"{choice}: {pair.responses[side]}", style="bold")
        answer = _read_answer()
        if answer == "q":
            break
        winner = None if answer == "0" else pair.models[sides[int(answer) - 1]]
        votes.append(replace(pair, winner=winner, at=datetime.now(UTC).isoformat(timespec="seconds")))
        add_vote(path, votes[-1])
    return votes


def _read_answer() -> str:
    """Reads 0, 1, 2 or q; the end of the input counts as q."""
    while True:
        console.print("[dim]which is better? 1, 2, 0 neither, q quit[/dim] ", end="")
        line = read_line()
        answer = line.strip().lower()
        if not line or answer in ("0", "1", "2", "q"):
            return answer or "q"


def _summary(wins: Wins, models: tuple[str, str], identical: int, fix: str) -> str:
    """Describes the result; `fix` is how to get more to vote on, where nothing is left."""
    first, second = models
    counts = f"{wins.neither} for neither" + (f", {identical} identical, not shown" if identical else "")
    nothing_left = f"nothing is left to vote on: {fix}"
    if not wins.wins + wins.losses:
        return f"no votes for either model, {counts}" + (f"; {nothing_left}" if fix else "")
    better = second if wins.low > 0.5 else first if wins.high < 0.5 else None
    verdict = f"{better} is better" if better else "no significant difference"
    if not better:
        verdict += f", and {nothing_left}" if fix else " yet"
    return (
        f"{second} wins {wins.wins} of {wins.wins + wins.losses} against {first}: {wins.rate:.0%} "
        f"({wins.low:.0%} to {wins.high:.0%}), {counts}; {verdict}"
    )
