"""A folder for `ollama create`: a GGUF file and the Modelfile beside it.

Owns: the Modelfile (https://docs.ollama.com/modelfile): template, ends and sampling, which Ollama takes from there and
not from the GGUF file.
"""

from convmodel.export.gguf_file import WHOLE_CONTEXT, GgufModel
from convmodel.export.origin import Origin

MODELFILE = "Modelfile"
WEIGHTS = "model.gguf"

_LONGEST = 8192  # positions that Ollama keeps memory for; more are slow to allocate, and can be set there


def modelfile(model: GgufModel, origin: Origin) -> str:
    """Returns the content of the Modelfile."""
    sampling = {
        "temperature": model.sampling["temperature"],
        "top_p": model.sampling["top_p"],
        "top_k": model.sampling["top_k"],
        "min_p": model.sampling["min_p"],
        "repeat_penalty": model.sampling["repetition_penalty"],
        "repeat_last_n": WHOLE_CONTEXT,
        "num_ctx": min(model.shape.context, _LONGEST),
    }
    lines = [f"# {origin.name}: ollama create NAME -f {MODELFILE}", f"FROM ./{WEIGHTS}", ""]
    lines += [f'TEMPLATE """{model.templates.go()}"""', ""]
    lines += [f'PARAMETER stop "{model.vocabulary.names[index]}"' for index in model.stop_ids]
    lines += [f"PARAMETER {name} {value}" for name, value in sampling.items()]
    if origin.license:
        text = origin.license.replace('"', "")
        lines += ["", f'LICENSE """{text}"""']
    return "\n".join(lines) + "\n"
