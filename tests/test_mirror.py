"""Every module has its tests where CONTRIBUTING says: a mirror file in `tests/unit`, or one listed here."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src/convmodel"

CONSTANTS = {
    "__main__.py",
    "data/importing/name_words.py",
    "export/options.py",
}
"""Modules without a function of their own."""

ELSEWHERE = {
    # The command line beside its commands.
    "cli/fit_options.py": ("integration/test_fit_cli.py", "--output-dir"),
    "cli/improve_sources.py": ("integration/test_improve_cli.py", "chosen_replay"),
    # The server: asked over HTTP. The second is a path, or what the server is made with.
    "server/api/completions.py": ("integration/test_server_openai.py", "completions.create"),
    "cli/recording.py": ("integration/test_record_cli.py", "the same command resumes"),
    "cli/help.py": ("integration/test_main_cli.py", '"-h"'),
    "server/api/files.py": ("integration/test_server_files.py", "/v1/files"),
    "server/api/fine_tuning_jobs.py": ("integration/test_server_fine_tuning.py", "/v1/fine_tuning/jobs"),
    "server/api/formats.py": ("integration/test_server_schemas.py", "response_format"),
    "server/api/improve.py": ("integration/test_improve_server.py", "/improve"),
    "server/api/multipart.py": ("integration/test_server_files.py", "its end is missing"),
    "server/api/pages.py": ("integration/test_server_files.py", "after=file-none"),
    "server/api/messages.py": ("integration/test_server_tools.py", "tool_calls"),
    "server/api/requests.py": ("integration/test_server_errors.py", "/v1/chat/completions"),
    "server/api/responses.py": ("integration/test_server_openai.py", "responses.create"),
    "server/api/strict.py": ("unit/server/api/test_no_effect.py", "Extra inputs"),
    "server/api/status.py": ("integration/test_server_middleware.py", "/ready"),
    "server/api/tokenize.py": ("integration/test_server_texts.py", "/tokenize"),
    "server/api/web_page.py": ("e2e/test_page_safety.py", "web_page"),
    "server/api/train.py": ("integration/test_server_training_page.py", "/train/preparations"),
    "server/app.py": ("integration/test_server_middleware.py", "create_app"),
    "server/fine_tuning/job_order.py": ("integration/test_server_fine_tuning.py", "Order"),
    "server/fine_tuning/preparation_queue.py": ("integration/test_server_training_page.py", "it was not done within"),
    "server/fine_tuning/preparations.py": ("integration/test_server_training_page.py", "is needed by"),
    "server/fine_tuning/job_queue.py": ("integration/test_server_fine_tuning.py", "is started again"),
    "server/fine_tuning/service.py": ("integration/test_server_fine_tuning.py", "is needed by"),
    "server/middleware.py": ("integration/test_server_middleware.py", "/health"),
    "server/ray_app.py": ("integration/test_server_ray.py", "convmodel.server.ray_app"),
    "server/settings.py": ("integration/test_server_errors.py", "convmodel.server.settings"),
    "server/uploads.py": ("integration/test_server_files.py", "cross-site"),
    # What the readers of chat exports share: read through each of them.
    "data/importing/exports/archive.py": ("unit/data/importing/test_pipeline.py", "zip"),
    "data/importing/exports/branches.py": ("unit/data/importing/exports/test_chatgpt.py", "branch"),
    "data/importing/exports/dates.py": ("unit/data/importing/exports/test_whatsapp.py", "date"),
    "data/importing/exports/json_fields.py": ("unit/data/importing/exports/test_json_exports.py", "json"),
    "data/importing/exports/messages.py": ("unit/data/importing/exports/test_whatsapp.py", "Message"),
    "data/importing/exports/names.py": ("unit/data/importing/exports/test_plain.py", "name"),
    "data/importing/exports/text_lines.py": ("unit/data/importing/exports/test_json_exports.py", "text_lines"),
    "data/importing/exports/whatsapp_notices.py": ("unit/data/importing/exports/test_whatsapp.py", "omitted"),
    "data/importing/pii.py": ("unit/data/importing/test_redaction.py", "EMAIL"),
    "data/reading/problems.py": ("unit/data/importing/exports/test_line.py", "Problems"),
    # Parts of one thing, which is tested as a whole: the engine, a report, the trainer.
    "data/windows/encoding.py": ("unit/data/windows/test_store.py", "encode_windows"),
    "hf_model/lora_options.py": ("integration/test_lora.py", "LoraConfig"),
    "export/llama_cpp_server.py": ("unit/export/test_llama_cpp.py", "llama_cpp_server"),
    "generation/engine/request.py": ("unit/generation/engine/test_engine.py", "Request"),
    "generation/hf_generate.py": ("unit/generation/test_respond.py", "transformers"),
    "generation/output.py": ("unit/generation/test_respond.py", "ConversationModelOutput"),
    "generation/responses_file.py": ("unit/generation/test_batched.py", "write_responses"),
    "hf_model/embedding.py": ("unit/test_model.py", "separator"),
    "hf_model/loading.py": ("unit/test_model.py", "from_pretrained"),
    "report/evaluation/model_evaluation.py": ("unit/report/evaluation/test_results.py", "model_evaluation"),
    "training/arguments.py": ("integration/test_fit_options.py", "optim"),
    "training/doctor/examination.py": ("integration/test_doctor_cli.py", "doctor"),
    "training/fit.py": ("integration/test_training_equalities.py", ".fit("),
    "training/divergence.py": ("integration/test_training_equalities.py", "training has diverged"),
    "training/fit_result.py": ("integration/test_training_equalities.py", ".fit("),
    "training/objectives/choose.py": ("integration/test_preferences.py", "objective"),
    "training/objectives/preference.py": ("integration/test_preferences.py", "reward_chosen"),
    "training/objectives/reference.py": ("integration/test_preferences.py", "Reference"),
    "training/fit_data.py": ("integration/test_packing.py", "require_packable"),
    "training/packages.py": ("integration/test_serve_cli.py", "training needs accelerate"),
    "training/trainable.py": ("integration/test_lora.py", "requires_grad"),
    "training/metrics_reader.py": ("unit/training/test_metrics_log.py", "read_metrics"),
}
"""For a module without a mirror: the file that tests it, and what that file says of it."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def has_mirror(path: Path) -> bool:
    """Whether a module has a file of its own in `tests/unit`, or, in `cli/`, in `tests/integration`."""
    stem = path.stem.strip("_")
    mirrors = [TESTS / "unit" / path.relative_to(PACKAGE).parent / f"test_{stem}.py"]
    if path.parent == PACKAGE / "cli":
        mirrors.append(TESTS / "integration" / f"test_{stem}_cli.py")
    return any(mirror.exists() for mirror in mirrors)


def test_every_module_has_tests() -> None:
    missing = {name(path) for path in MODULES if not has_mirror(path)} - CONSTANTS - ELSEWHERE.keys()
    assert not missing, "give them a mirror in tests/unit, or say in ELSEWHERE where they are tested"


def test_the_lists_name_modules_that_exist() -> None:
    assert CONSTANTS | ELSEWHERE.keys() <= {name(path) for path in MODULES}


@pytest.mark.parametrize("module", sorted(CONSTANTS))
def test_constants_have_no_behaviour(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_what_has_no_mirror_is_tested_where_it_is_said() -> None:
    wrong = []
    for module, (test, word) in ELSEWHERE.items():
        path = TESTS / test
        if not path.exists() or word not in path.read_text(encoding="utf-8"):
            wrong.append(f"{module}: {test} is missing or does not mention {word}")
    assert not wrong, "\n".join(wrong)
