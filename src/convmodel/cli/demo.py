"""`convmodel demo`: the whole path once, on conversations that come with the package."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convmodel.cli.console import console, print_json, print_table, program, require_free

if TYPE_CHECKING:
    from convmodel.conversation import Conversation
    from convmodel.evaluation.likelihood import EvaluationResult
    from convmodel.model import ConversationModel

DEMO_MODEL = Path("demo-model")
"""Where the model is saved; a second demo replaces the first one's."""

VOCABULARY = 2048
WIDTH, LAYERS, HEADS, POSITIONS = 192, 4, 3, 256


def command(
    *,
    output_dir: Annotated[Path, typer.Option(help="Where the model is saved.")] = DEMO_MODEL,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in another folder.")] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the conversations.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Seeds weights, order and dropout.")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Trains a small GPT-2 from scratch on real conversations, measures it, and lets it answer.

    Takes a few minutes on two cores and needs no network: 600 conversations between people come with the package.
    """
    require_free(output_dir, overwrite=overwrite or output_dir == DEMO_MODEL)
    with console.status("starting ..."):
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        train, valid, test = (_sample(name) for name in ("train", "valid", "test"))
        model = _new_model(train, seed)
    turns = sum(len(conversation.turns) for conversation in train)
    _say(f"{len(train)} conversations between two people ({turns:,} turns) to learn from, {len(test)} held out.")
    _say(f"A new GPT-2 of {model.hf_model.num_parameters() / 1e6:.1f} M parameters, {VOCABULARY:,} pieces of words.")
    before = model.evaluate(valid)
    result = model.fit(
        train,
        valid,
        epochs=epochs,
        learning_rate=1e-3,
        batch_size=4,
        output_dir=str(output_dir),
        seed=seed,
        resume=False,
    )
    after = model.evaluate(valid)
    unseen = model.evaluate(test)
    answers = [_answer(model, conversation, number) for number, conversation in enumerate(test[:3])]
    if as_json:
        print_json(
            {
                "before": before.to_dict(),
                "after": after.to_dict(),
                "test": unseen.to_dict(),
                "seconds": result.seconds,
                "answers": answers,
                "output_dir": str(output_dir),
            }
        )
        return
    _show_measurements(before, after, unseen)
    for answer in answers:
        _show_answer(answer)
    _say("So small a model, on so little text, learns how small talk sounds, and hardly what it means.")
    _say(f"The model is in {output_dir}/. How to go on:")
    for line in (
        f"chat --model {output_dir}",
        f'generate --model {output_dir} "Hello" --top-p 0.9',
        f"fit YOUR_CHATS.jsonl --model {output_dir} --output-dir model",
        "--help",
    ):
        console.print(f"  {program()} {line}", markup=False, highlight=False, soft_wrap=True)


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _sample(name: str) -> "list[Conversation]":
    from convmodel.data.reading import read_conversations

    with as_file(files("convmodel") / "assets" / "sample" / f"{name}.jsonl") as path:
        return read_conversations(path)


def _new_model(train: "list[Conversation]", seed: int) -> "ConversationModel":
    """Makes a model of random weights over a vocabulary learned from the training conversations."""
    from transformers import GPT2Config

    from convmodel.model import ConversationModel
    from convmodel.vocabulary import train_vocabulary

    tokenizer = train_vocabulary((turn for conversation in train for turn in conversation.turns), VOCABULARY)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return ConversationModel.from_config(config, tokenizer, seed=seed)


def _answer(model: "ConversationModel", conversation: "Conversation", seed: int) -> dict[str, object]:
    """Answers the beginning of a held-out conversation."""
    context = list(conversation.turns[:3])
    output = model.generate(context, max_new_tokens=40, do_sample=True, top_p=0.9, temperature=0.7, seed=seed)
    return {"context": context, "response": output.responses[0], "person": conversation.turns[3]}


def _show_measurements(before: "EvaluationResult", after: "EvaluationResult", unseen: "EvaluationResult") -> None:
    rows = [
        ("perplexity a token", *(f"{result.perplexity:,.1f}" for result in (before, after, unseen))),
        ("bits a byte of text", *(f"{result.bits_per_byte:.2f}" for result in (before, after, unseen))),
    ]
    columns = ("", "validation before", "validation after", "test after")
    print_table(columns, rows)
    _say(f"Validation perplexity fell {before.perplexity / after.perplexity:.1f} times. Lower is better.\n")


def _show_answer(answer: dict[str, object]) -> None:
    context = answer["context"]
    assert isinstance(context, list)
    for turn in context:
        _say(f"  - {_one_line(turn)}")
    _say(f"  model:  {_one_line(str(answer['response']))}")
    _say(f"  person: {_one_line(str(answer['person']))}\n")


def _one_line(text: str) -> str:
    return " / ".join(text.splitlines())
