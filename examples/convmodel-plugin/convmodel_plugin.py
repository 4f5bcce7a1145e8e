"""Reads the logs of the chat program WeeChat, and measures how many responses ask something."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from convmodel import Chat, Message, Problems, ResponseMetric

EVENTS = ("", "--", "-->", "<--", " *")


def matches(path: Path) -> bool:
    return path.suffix == ".weechatlog" and path.is_file()


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    chat = Chat(path.stem)
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        place = f"{path}:{number}"
        try:
            written, nick, text = line.split("\t", 2)
            time = datetime.fromisoformat(written)
        except ValueError:
            if line.strip():
                problems.add(f"{place}: this is not a time, a nick and a text: correct or remove the line")
            continue
        if nick in EVENTS or not text.strip():
            chat.dropped["system message"] += 1
        else:
            chat.messages.append(Message(nick.lstrip("@+"), text.strip(), time, place))
    yield chat


questions = ResponseMetric(
    label="responses that ask",
    explanation="responses with a question mark",
    percent=True,
    numerator=lambda exchange: "?" in exchange.response,
)
