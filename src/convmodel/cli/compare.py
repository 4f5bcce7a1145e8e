"""`convmodel compare`: two models' responses, judged blind."""

import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from convmodel.cli.console import console, load_model, print_json, print_result
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.model_options import (
    MODEL_HELP,
    GreedyOption,
    QuantizeOption,
    TemperatureOption,
    TopPOption,
    sampling,
)
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.evaluation.votes import Vote, Wins, add_vote, count_wins, read_votes
from convmodel.generation.defaults import TEMPERATURE, TOP_P

_SHOWN_TURNS = 6


def command(
    first: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")],
    second: Annotated[str, typer.Argument(help="Another one.", metavar="MODEL")],
    *,
    data: Annotated[
        str, typer.Option(help="Conversations: a file, a folder, - or owner/name of the hub.", show_default=False)
    ],
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many contexts to judge.")] = 20,
    votes: Annotated[str, typer.Option(help="The file that votes are added to.")] = "votes.jsonl",
    greedy: GreedyOption = False,
    temperature: TemperatureOption = TEMPERATURE,
    top_p: TopPOption = TOP_P,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest response in tokens.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the choice of contexts, their sides and sampling.")] = 0,
    quantize: QuantizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Shows responses of two models to the same contexts without names, and counts which you find better.

    1 or 2 is the better one, 0 neither, q ends it. Votes of earlier times in the same file count too.

    `convmodel compare old new --data test.jsonl`
    """
    if data == "-":
        raise ConfigError("--data - leaves no standard input for your votes: give a file")
    if first == second:
        raise ConfigError(f"{first} against itself tells nothing: give two models")
    earlier = read_votes(votes)
    pending = _responses(
        (first, second),
        ConversationReader(data, shape=format, on_error=on_error),  # type: ignore[arg-type]
        number,
        seed,
        quantize=quantize,
        options=sampling(greedy=greedy, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens),
    )
    judged = {(tuple(vote.context), tuple(sorted(vote.models))) for vote in earlier}
    pending = [vote for vote in pending if (tuple(vote.context), tuple(sorted(vote.models))) not in judged]
    given = _ask(pending, votes, random.Random(seed))
    wins = count_wins([*earlier, *given], first, second)
    if as_json:
        print_json(
            {"first": first, "second": second} | {name: getattr(wins, name) for name in Wins.__dataclass_fields__}
        )
    else:
        print_result(_told(wins, first, second))


def _responses(
    models: tuple[str, str],
    reader: ConversationReader,
    number: int,
    seed: int,
    *,
    quantize: str | None,
    options: dict[str, object],
) -> list[Vote]:
    """Lets both models respond to the same contexts; what comes is votes without a winner."""
    conversations = [*reader]
    from convmodel.report.evaluation.evaluate import Settings, chosen_contexts, respond

    settings = Settings(generation=options, seed=seed)
    chosen = chosen_contexts(conversations, number, seed)
    said = []
    for name in models:
        model = load_model(name, quantize=quantize)
        with console.status(f"{name} responds ..."):
            said.append(respond(model, conversations, chosen, settings)[0])
    return [
        Vote(list(one.context.turns), list(models), [one.response, other.response], None)
        for one, other in zip(*said, strict=True)
    ]


def _ask(pending: Sequence[Vote], path: str, chance: random.Random) -> list[Vote]:
    """Shows one pair after the other, sides drawn, and adds each vote to the file at once."""
    given = []
    for place, pair in enumerate(pending, 1):
        sides = chance.sample((0, 1), 2)
        if pair.responses[0] == pair.responses[1]:
            answer: str | None = "0"
        else:
            console.rule(f"{place} of {len(pending)}")
            for turn in pair.context[-_SHOWN_TURNS:]:
                console.print(f"  {turn}", markup=False, highlight=False)
            for shown, side in enumerate(sides, 1):
                console.print(f"{shown}: {pair.responses[side]}", style="bold", markup=False, highlight=False)
            answer = _answer()
        if answer is None:
            break
        winner = None if answer == "0" else pair.models[sides[int(answer) - 1]]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        given.append(Vote(pair.context, pair.models, pair.responses, winner, now))
        add_vote(path, given[-1])
    return given


def _answer() -> str | None:
    """Reads 0, 1 or 2; None for the end."""
    while True:
        console.print("[dim]which is better? 1, 2, 0 neither, q quit[/dim] ", end="")
        line = sys.stdin.readline()
        answer = line.strip().lower()
        if not line or answer == "q":
            return None
        if answer in ("0", "1", "2"):
            return answer


def _told(wins: Wins, first: str, second: str) -> str:
    if not wins.wins + wins.losses:
        return f"no vote for either, {wins.neither} for neither"
    better = second if wins.low > 0.5 else first if wins.high < 0.5 else None
    verdict = f"{better} is better" if better else "no difference shows yet"
    return (
        f"{second} wins {wins.wins} of {wins.wins + wins.losses} against {first}: {wins.rate:.0%} "
        f"({wins.low:.0%} to {wins.high:.0%}), {wins.neither} for neither; {verdict}"
    )
