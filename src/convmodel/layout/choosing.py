"""Which layout a tokenizer gets.

Owns: the choice between the separator layout and that of the model's own chat template, and its reason.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

from convmodel.errors import ConfigError, ModelLoadError
from convmodel.layout.config import LayoutConfig, chat_template_of
from convmodel.layout.markers import TemplateMarkers
from convmodel.layout.measuring import measure
from convmodel.layout.rendering import DATE, UnusableTemplateError
from convmodel.layout.separator import choose_bos, choose_separator, is_own_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LayoutName: TypeAlias = Literal["auto", "separator", "template"]
"""How a layout is chosen; see `ConversationTokenizer.from_pretrained`."""


class LayoutChoice(NamedTuple):
    """A layout, why it is this one, and whether its separator was added to the vocabulary."""

    layout: LayoutConfig
    reason: str
    separator_added: bool


def choose_layout(hf_tokenizer: "PreTrainedTokenizerBase", name: LayoutName, *, use_token_types: bool) -> LayoutChoice:
    """Chooses the layout of a model that was not saved by convmodel.

    Raises:
        ConfigError: If there is no such layout.
        ModelLoadError: If the chat template is to be used and cannot be.
    """
    if name not in get_args(LayoutName):
        raise ConfigError(f"layout is {name!r}: it must be {', '.join(get_args(LayoutName)[:-1])} or template")
    reason = "as requested"
    if name == "auto" and is_own_template(chat_template_of(hf_tokenizer)):
        name, reason = "separator", "the chat template is of this layout"
    if name != "separator":
        try:
            markers = measure(hf_tokenizer)
        except UnusableTemplateError as error:
            if name == "template":
                raise ModelLoadError(f"{error}: load the model with layout='separator'") from error
            reason = str(error)
            if chat_template_of(hf_tokenizer):
                logger.warning("the layout is separator, not the model's chat template: %s", reason)
        else:
            layout = LayoutConfig(None, None, use_token_types=False, template=markers)
            return LayoutChoice(layout, _reason(markers), False)
    token, index, added = choose_separator(hf_tokenizer)
    layout = LayoutConfig(index, token, use_token_types, bos_id=choose_bos(hf_tokenizer, index))
    return LayoutChoice(layout, reason, added)


def _reason(markers: TemplateMarkers) -> str:
    """Describes what was measured, and with what."""
    settings = [f"{name}={str(value).lower()}" for name, value in markers.switches.items()]
    settings += [f"the date {DATE:%d %B %Y}"] if markers.dated else []
    return "measured from the model's chat template" + (f" with {' and '.join(settings)}" if settings else "")


def with_names(layout: LayoutConfig, names: str | None, stop_ids: tuple[int, ...]) -> LayoutConfig:
    """Returns a template layout with further ids that end a response, and names before texts if they are to be there.

    What is not given stays as the layout has it.

    Raises:
        ConfigError: If names are to be put before texts in the separator layout, or anywhere else.
    """
    if names not in (None, "prefix"):
        raise ConfigError(f"names is {names!r}: it must be prefix, or left out")
    if layout.template is not None:
        return replace(layout, names=names or layout.names, stop_ids=stop_ids or layout.stop_ids)
    if names is not None:
        raise ConfigError(f"names={names!r} needs the template layout: leave it out, or choose a model with a template")
    return layout


def require_saved(name: str, saved: LayoutConfig, layout: LayoutName, use_token_types: bool | None) -> None:
    """Raises a `ModelLoadError` if a saved model is to be loaded in another layout."""
    if layout not in ("auto", saved.name):
        raise ModelLoadError(
            f"{name} was saved in the {saved.name} layout: leave layout={layout!r} out, or start from its base model"
        )
    if use_token_types not in (None, saved.use_token_types):
        raise ModelLoadError(f"{name} was trained with use_token_types={saved.use_token_types}: leave the argument out")
