"""YAML, the format of ChatterBot's corpora: `conversations:` and under it lists of turns.

Owns: finding the conversations of a YAML file, each with its line. Every scalar stays text: people say `1963` and
`yes`.
"""

from pathlib import Path
from typing import Any

import yaml

from convmodel.data.reading.decoding import read_text
from convmodel.errors import ConversationError


def yaml_items(path: Path) -> list[tuple[int, Any]]:
    """Reads the conversations of a file, each with its line: its list, its `conversations`, or the file as one.

    Raises:
        ConversationError: If it is not YAML; the message names line and column.
    """
    text = read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        items = _items_of(node)
        return [(item.start_mark.line + 1, loader.construct_document(item)) for item in items]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConversationError(f"{path}{place}: not YAML ({error.problem})") from error
    except yaml.YAMLError as error:
        raise ConversationError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise ConversationError(f"{path}: nested too deeply to be a conversation") from error


class _Loader(yaml.BaseLoader):  # type: ignore[misc]
    """Scalars are text; a repeated key is an error, as in JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(problem="a key occurs twice", problem_mark=node.start_mark)
        return mapping


def _items_of(node: yaml.Node | None) -> list[yaml.Node]:
    if node is None:
        return []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "conversations" and isinstance(value, yaml.SequenceNode):
                return list(value.value)
    if isinstance(node, yaml.SequenceNode) and not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return list(node.value)
    return [node]
