"""Channels, groups and direct messages of a Slack workspace, as it exports them to a zip of JSON files.

Owns: the layout of that export, which may be a single channel of it, and the syntax of its messages.
"""

import html
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from convmodel.data.importing.exports.archive import Outline, candidates, json_files, json_values, outline
from convmodel.data.importing.exports.json_fields import (
    FIX,
    QUOTE,
    Entry,
    Speakers,
    a_list,
    a_string,
    add_entries,
    name_or,
    placed,
    sort_by_time,
    unix_time,
    unquoted,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

USERS = "users.json"
LISTS = ("channels.json", "groups.json", "mpims.json", "dms.json")
"""The files that list the chats."""

SLACKBOT = "USLACKBOT"
"""The id of Slack's own bot, in every workspace."""

WITHOUT_NAMES = "speakers are called by their ids, since there is no users.json: give the folder above, if it has one"

_DAY = re.compile(r"(.*/)?\d{4}-\d\d-\d\d\.json")
_SENDERS = {"user", "bot_id"}
_SPOKEN = {"", "me_message", "thread_broadcast", "reply_broadcast", "file_share"}
# Older exports, of the days when a file was a message of its own.
_UPLOAD = re.compile(r"@\S.* (uploaded|shared) (a|an|the) (file|image|snippet|post|email)\b.*")
_OTHER_KINDS = {"bot_message": "bot message", "slackbot_response": "bot message", "tombstone": "deleted message"}
_MARK = re.compile(r"<([^<>\s|][^<>\n|]*)(?:\|([^<>\n]*))?>")


def matches(path: Path) -> bool:
    """Returns whether this is the export of a Slack workspace (the zip, or its folder), or one channel or day of it."""
    return any(_is_channel(outline(file)) for file in candidates(path, _DAY.pattern))


def _is_channel(keys: Outline) -> bool:
    """Returns whether a file is a list of messages, or holds one, as other programs save a channel."""
    lists = (keys[2], keys[3] if "messages" in keys[1] else set())
    return any({"ts", "type"} <= names and _SENDERS & names for names in lists)


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the chats of an export; each thread is a chat of its own, which starts with the message it replies to.

    Raises:
        ConversationError: If it is not an export, or something in it is malformed and problems are errors.
    """
    files = json_files(path)
    days = [
        (name, file) for name, file in files if _DAY.fullmatch(name) or (file == path and _is_channel(outline(file)))
    ]
    if not days:
        raise ConversationError(f"{path}: no messages of a Slack workspace: give the zip or the folder of its export")
    workspace = _Workspace(path, files, problems)
    for folder, parts in groupby(json_values(path, days, problems), key=lambda file: PurePosixPath(file.name).parent):
        entries: list[tuple[str, Any]] = []
        for _, file, value in parts:
            listed = value.get("messages") if isinstance(value, dict) else value
            if isinstance(listed, list):
                entries += placed(file, listed)
            else:
                problems.add(f"{file}: {type(value).__name__} instead of a list of messages: {FIX}")
        for chat in _chats(workspace.chat_name(_channel(path, folder)), entries, workspace, problems):
            if not workspace.people:
                chat.notes.append(WITHOUT_NAMES)
            yield chat


def _channel(path: Path, folder: PurePosixPath) -> str:
    """Names a channel by its folder; a single channel has no folder inside of what is read."""
    if folder.name or path.is_dir():
        return folder.name or path.resolve().name
    return path.resolve().parent.name if _DAY.fullmatch(path.name) else path.stem


class _Workspace:
    """The people of a workspace and their chats."""

    def __init__(self, path: Path, files: list[tuple[str, Path]], problems: Problems) -> None:
        lists = [(name, file) for name, file in files if PurePosixPath(name).name in (USERS, *LISTS)]
        self.people: dict[str, str] = {}
        self.bots: set[str] = set()
        self.channels: dict[str, str] = {}
        self._members: dict[str, list[str]] = {}
        self._speakers = Speakers()
        for name, file, value in json_values(path, lists, problems):
            for index, entry in enumerate(value if isinstance(value, list) else [value], 1):
                number = name_or(entry, "id", "")
                if not number:
                    problems.add(f"{file}: entry {index}: there is no id: {FIX}")
                elif PurePosixPath(name).name == USERS:
                    self._add_person(number, entry)
                else:
                    self._add_chat(number, entry)

    def _add_person(self, number: str, entry: Entry) -> None:
        self.people[number] = _person(entry) or number
        if entry.get("is_bot") is True or number == SLACKBOT:
            self.bots.add(number)

    def _add_chat(self, number: str, entry: Entry) -> None:
        name = name_or(entry, "name", "")
        members = entry.get("members")
        if name:
            self.channels[number] = name
        # The folder of a direct message is named by its number, that of a group by the name that Slack gave it.
        if isinstance(members, list) and (not name or name.startswith("mpdm-")):
            self._members[name or number] = [member for member in members if isinstance(member, str)]

    def chat_name(self, folder: str) -> str:
        """Names the chat in a folder: a channel, or the people in a group."""
        if folder in self._members:
            return ", ".join(self.people.get(member, member) for member in self._members[folder])
        return f"#{folder}"

    def speaker(self, entry: Entry) -> str:
        """Names who wrote a message."""
        number = a_string(entry, "user")
        if not number:
            raise ConversationError("there is no user")
        # People of other workspaces are not in the list, but their profile may be in the message.
        name = self.people.get(number) or _person(entry.get("user_profile")) or number
        return self._speakers.name(number, name)

    def text(self, entry: Entry) -> str:
        """Returns the text of a message without Slack's marks."""
        text = _MARK.sub(lambda mark: self._shown(mark[1], mark[2] or ""), a_string(entry, "text"))
        return html.unescape(text).strip() if "&" in text else text.strip()

    def _shown(self, target: str, label: str) -> str:
        kind, rest = target[0], target[1:]
        if kind == "@":
            return f"@{label or self.people.get(rest, rest)}".replace("@@", "@")
        if kind == "#":
            return f"#{label or self.channels.get(rest, rest)}"
        if kind == "!":  # <!here>, <!subteam^S1|@team>, <!date^1700000000^{date}|today>
            return label or f"@{rest.partition('^')[0]}"
        return label or target


def _person(entry: Any) -> str:
    """Returns the name that others see; empty if there is none."""
    profile = entry.get("profile") if isinstance(entry, dict) else None
    names = (name_or(at, key, "") for key in ("display_name", "real_name", "name") for at in (profile, entry))
    return next(filter(None, names), "")


def _chats(name: str, entries: list[tuple[str, Any]], workspace: _Workspace, problems: Problems) -> Iterator[Chat]:
    """Splits the entries of a channel into the chat of the channel and those of its threads."""
    parents = {
        entry["thread_ts"]
        for _, entry in entries
        if isinstance(entry, dict) and _thread(entry) and entry["thread_ts"] != entry.get("ts")
    }
    threads: dict[str, list[tuple[str, Any]]] = {"": []}
    for place, entry in entries:
        thread = _thread(entry) if isinstance(entry, dict) else ""
        threads.setdefault(thread if thread in parents else "", []).append((place, entry))
    seen: set[tuple[str, ...]] = set()
    for thread, thread_entries in threads.items():
        chat = Chat(f"{name}, thread {thread}" if thread else name, parted=not thread)
        add_entries(chat, thread_entries, problems, lambda entry, place: _message(entry, place, workspace, seen))
        sort_by_time(chat)
        if chat.entries:
            yield chat


def _thread(entry: Entry) -> str:
    thread = entry.get("thread_ts")
    return thread if isinstance(thread, str) else ""


def _message(entry: Entry, place: str, workspace: _Workspace, seen: set[tuple[str, ...]]) -> Message | str:
    number = a_string(entry, "ts")
    time = unix_time(number or None, "ts")
    kind, subtype = a_string(entry, "type"), a_string(entry, "subtype")
    is_spoken = kind in ("", "message") and subtype in _SPOKEN
    user = a_string(entry, "user")
    text, without = unquoted(workspace.text(entry))
    files, attachments = a_list(entry, "files"), a_list(entry, "attachments")
    # Only a program has a bot's number and no entry among the people.
    is_bot = user in (*workspace.bots, SLACKBOT) or (a_string(entry, "bot_id") and user not in workspace.people)
    speaker = "" if is_bot or not is_spoken else workspace.speaker(entry)
    if (number, user, text) in seen:  # a reply that is also sent to the channel may occur twice
        return "repeated message"
    seen.add((number, user, text))
    if not is_spoken:
        return _OTHER_KINDS.get(subtype, "system message")
    if is_bot:
        return "bot message"
    if subtype == "file_share" and _UPLOAD.fullmatch(text):
        return "media"
    if not text:
        if any(isinstance(part, dict) and part.get("is_share") for part in attachments):
            return "forwarded message"
        is_media = files or attachments or subtype == "file_share"
        return "media" if is_media else QUOTE if without else "empty message"
    return Message(speaker, text, time, place, without)
