"""Messages of DeepSeek's export, which has the tree of ChatGPT's with other messages in it.

Owns: the fragments of a message. Knows nothing of the tree.
"""

import re

from convmodel.data.importing.exports.json_fields import Entry, a_list, a_string, an_object, iso_time
from convmodel.data.importing.exports.messages import Message
from convmodel.errors import ConversationError

_SPEAKERS = {"REQUEST": "user", "RESPONSE": "assistant"}
# The page shows a number with a link to a source instead. A long run of spaces is tried once, from its start.
_SOURCE = re.compile(r"(?<![ \t])[ \t]*\[(?:citation|reference):\d+\]")


def deepseek_message(entry: Entry, place: str, is_shown: bool) -> Message | str:
    """Reads a message: what was asked or answered, without what the model thought or searched for."""
    fragments = [an_object(fragment) for fragment in a_list(entry, "fragments")]
    kinds = [a_string(fragment, "type") for fragment in fragments]
    texts = [(kind, a_string(fragment, "content")) for kind, fragment in zip(kinds, fragments, strict=True)]
    spoken = [(_SPEAKERS[kind], text) for kind, text in texts if kind in _SPEAKERS]
    speakers = {speaker for speaker, _ in spoken}
    if len(speakers) > 1:
        raise ConversationError("a message has both a request and a response")
    time = iso_time(entry.get("inserted_at"), "inserted_at")
    text = "\n".join(text for _, text in spoken if text)
    if "assistant" in speakers:
        text = _SOURCE.sub("", text).strip()
    if not is_shown:
        return "other branch"
    if text:
        return Message(speakers.pop(), text, time, place)
    if a_list(entry, "files"):
        return "media"
    return "other content" if len(spoken) < len(kinds) else "empty message"
