"""The Modelfile beside a GGUF file."""

from export_models import make_model

from convmodel.export.gguf_file import gguf_model
from convmodel.export.ollama import modelfile
from convmodel.export.origin import Origin


def test_a_modelfile_has_template_ends_and_sampling() -> None:
    loaded = make_model("gemma3")
    model = gguf_model(loaded.hf_model, loaded.tokenizer)
    lines = modelfile(model, Origin("bot", license="mit")).splitlines()
    assert lines[:2] == ["# bot: ollama create NAME -f Modelfile", "FROM ./model.gguf"]
    assert f'TEMPLATE """{model.templates.go()}"""' in lines
    stops = [model.vocabulary.names[index] for index in loaded.tokenizer.stop_token_ids]
    assert [line for line in lines if line.startswith("PARAMETER stop")] == [f'PARAMETER stop "{s}"' for s in stops]
    assert len(stops) == 2
    settings = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("PARAMETER") and "stop" not in line)
    assert settings == {
        **{"temperature": "0.8", "top_p": "0.95", "top_k": "0", "min_p": "0.0"},
        **{"repeat_penalty": "1.0", "repeat_last_n": "-1", "num_ctx": "512"},
    }
    assert lines[-1] == 'LICENSE """mit"""'
