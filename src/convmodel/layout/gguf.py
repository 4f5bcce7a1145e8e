"""The tokenizer and the config of a GGUF file, as transformers has them.

Owns: correcting what transformers' conversion loses, so that texts become the ids that llama.cpp computes: the rules
that split a text before its merges, prefix spaces, whole words, and the scaling of positions.
"""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convmodel.errors import ModelLoadError
from convmodel.files.gguf import END_NAMES, GgufFile, read_header, write_settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_GPT2_RULES = frozenset((
    "a.x-4.0", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "jina-de", "jina-es", "jina-v2-code",
    "mellum", "modern-bert", "mpt", "olmo", "phi-2", "roberta-bpe", "trillion",
))  # fmt: skip
_DIGIT_RULES = frozenset(("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"))
_SAME_RULES = {
    "bailingmoe": "qwen2", "grok-2": "qwen2", "hunyuan": "qwen2", "solar-open": "qwen2", "stablelm2": "qwen2",
    "chatglm-bpe": "llama3", "glm4": "llama3",
}  # fmt: skip
"""llama.cpp's names of rules that transformers lacks: GPT-2's, GPT-2's after single digits, other names for its own."""
_WHOLE_WORDS = frozenset((
    "falcon-h1", "falcon3", "jina-v5-nano", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0", "pixtral", "tekken",
))  # fmt: skip
"""Rules of vocabularies with words that no merges lead to; a text begins with the token for its beginning."""

_NO_TEXT = (3, 5)  # llama.cpp's kinds of tokens that are not text: control tokens, and unused ones


def load_gguf_tokenizer(path: Path) -> "tuple[PreTrainedTokenizerBase, tuple[int, ...]]":
    """Loads the tokenizer of a GGUF file, and the ids that end a response.

    Raises:
        ModelLoadError: If transformers has no such tokenizer.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    file = read_header(path)
    try:
        architecture, vocabulary, options = get_gguf_tokenizer(str(path))
        backend, _ = convert_gguf_tokenizer(architecture, vocabulary)
    except (ValueError, KeyError, IndexError) as error:
        kind = file.metadata.get("tokenizer.ggml.model", "without a name")
        raise ModelLoadError(
            f"{path} has a tokenizer ({kind}) that transformers cannot read from GGUF: give a folder or a Hub id of "
            "the model"
        ) from error
    _split_as_llama_cpp(backend, vocabulary, path)
    if vocabulary.get("pre_tokenizer_type") in _WHOLE_WORDS:
        options.setdefault("add_bos_token", True)
    hf_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    kinds = zip(vocabulary["tokens"], vocabulary.get("token_type") or (), strict=False)
    no_text = [token for token, kind in kinds if kind in _NO_TEXT]
    hf_tokenizer.add_special_tokens({"extra_special_tokens": no_text}, replace_extra_special_tokens=False)
    hf_tokenizer.name_or_path = str(path)
    ends = (file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in END_NAMES)
    return hf_tokenizer, tuple(index for index in ends if index is not None)


def _split_as_llama_cpp(backend: "Tokenizer", vocabulary: dict[str, Any], path: Path) -> None:
    """Corrects how a tokenizer splits texts; of a byte-level vocabulary by `tokenizer.ggml.pre`."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    if vocabulary["tokenizer_type"] == "llama":
        if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):  # not Gemma's
            replace = normalizers.Replace(" ", "▁")
            prefix = vocabulary.get("add_prefix_space", True)
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace] if prefix else [replace])
            backend.pre_tokenizer = None
            steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
        return
    if vocabulary["tokenizer_type"] != "gpt2":
        return
    rules = vocabulary.get("pre_tokenizer_type")
    if splitting := splitting_by(rules):
        backend.pre_tokenizer = splitting.pre_tokenizer
        backend.model.ignore_merges = splitting.ignores_merges
    else:
        logger.warning(
            "%s splits texts by rules (%s) that are not known here, so GPT-2's are used: some texts get other tokens "
            "than in training; a folder or a Hub id of the model has its own rules",
            path,
            rules or "not named",
        )


class Splitting(NamedTuple):
    """How a byte-level vocabulary splits a text before its merges.

    Attributes:
        pre_tokenizer: Splits the text, and turns it into bytes.
        ignores_merges: Whether a piece that is an entry of the vocabulary stays whole, if no merges lead to it, too.
    """

    pre_tokenizer: "PreTokenizer"
    ignores_merges: bool


def splitting_by(rules: str | None) -> Splitting | None:
    """Returns how llama.cpp splits texts by rules of a name, as in `tokenizer.ggml.pre`; None if they are not known.

    llama.cpp has the rules in its code; a file has the name.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    by_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pre_tokenizer: PreTokenizer = by_gpt2
    if rules in _DIGIT_RULES:
        pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), by_gpt2])
    elif pattern := GGUF_PRE_TOKENIZER_SPLITS.get(_SAME_RULES.get(rules or "", rules or "")):
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_])
    elif rules not in _GPT2_RULES:
        return None
    return Splitting(pre_tokenizer, rules in _WHOLE_WORDS)


def load_gguf_config(path: Path) -> Any:
    """Returns the `PretrainedConfig` of a GGUF file.

    Raises:
        ModelLoadError: If transformers does not read this architecture, or not all of its settings.
    """
    from transformers import AutoConfig
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    file = read_header(path)
    with tempfile.TemporaryDirectory() as folder:
        place = path.resolve()
        options: dict[str, Any] = {}
        if file.architecture not in GGUF_CONFIG_ARCHS:  # the others are read fast
            place = Path(folder, "settings.gguf")
            write_settings(file, place)
            options = {"vocab_size": _vocabulary_size(file)}
        try:
            config = AutoConfig.from_pretrained(folder, gguf_file=str(place), **options)
        except (ValueError, KeyError, IndexError, OSError) as error:
            raise _architecture_error(file) from error
    _complete(config, file)
    _scale_positions(config, file)
    vars(config).pop("_model_name_or_path", None)  # the title of the model
    config.name_or_path = str(path)
    return config


_KEYS = {"key_length": "head_dim", "context_length": "n_positions"}
"""Settings that transformers reads for some architectures only, and their names in configs."""

_BIASES = {"attention_bias": ("attn_q", "attn_output"), "mlp_bias": ("ffn_up", "ffn_down")}
_LARGE_GEMMA = {"gemma2": 46, "gemma3": 62}
"""The layers of Gemma's models of 27 B parameters, by which llama.cpp recognizes them: a file lacks the scale."""


def _complete(config: Any, file: GgufFile) -> None:
    """Sets what transformers leaves at the default of the architecture, where the file says or implies otherwise."""
    names = {tensor.name for tensor in file.tensors}
    for key, name in _KEYS.items():
        value = file.metadata.get(
            f"{file.architecture}.attention.{key}", file.metadata.get(f"{file.architecture}.{key}")
        )
        if value is not None and hasattr(config, name):
            setattr(config, name, value)
    for name, parts in _BIASES.items():
        if hasattr(config, name):
            setattr(config, name, {f"blk.0.{part}.bias" for part in parts} <= names)
    if file.architecture in _LARGE_GEMMA:  # as llama.cpp computes it
        is_large = config.num_hidden_layers == _LARGE_GEMMA[file.architecture]
        size = config.hidden_size // config.num_attention_heads if is_large else config.head_dim
        config.query_pre_attn_scalar = size
    if (config.pad_token_id or 0) >= config.vocab_size:
        config.pad_token_id = None


def _vocabulary_size(file: GgufFile) -> int:
    size = file.metadata.get(f"{file.architecture}.vocab_size", file.metadata.get("tokenizer.ggml.tokens"))
    if size is None:
        raise ModelLoadError(f"{file.path} has no vocabulary: give the file with the whole model")
    return int(size)


def _architecture_error(file: GgufFile) -> ModelLoadError:
    return ModelLoadError(
        f"{file.path} is of the architecture {file.architecture}, which transformers cannot read from GGUF: give a "
        "folder or a Hub id of the model, with its weights as safetensors"
    )


def _scale_positions(config: Any, file: GgufFile) -> None:
    """Sets the scaling of rotary positions, which transformers reads for one architecture only.

    Raises:
        ModelLoadError: If it is one whose parameters the file does not have.
    """
    key = f"{file.architecture}.rope.scaling"
    kind = file.metadata.get(f"{key}.type", "none")
    parameters = getattr(config, "rope_parameters", None)
    if kind == "none" or parameters is None or parameters.get("rope_type", "default") != "default":
        return
    factor = file.metadata.get(f"{key}.factor")
    if kind not in ("linear", "yarn") or factor is None:
        raise ModelLoadError(
            f"{file.path} scales its positions ({kind}) in a way that is not read from GGUF: give a folder or a Hub id "
            "of the model"
        )
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        length = file.metadata.get(f"{key}.original_context_length", config.max_position_embeddings)
        scaling["original_max_position_embeddings"] = length
    # Gemma 3 scales the positions of its layers with full attention alone.
    parameters.get("full_attention", parameters).update(scaling)
