"""BLEU and chrF as sacrebleu computes them.

Owns: everything that calls sacrebleu.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from convmodel.errors import MissingExtraError
from convmodel.evaluation.metric import Definition, Formula, Metric, Sums, Topic
from convmodel.evaluation.word_split import bleu_tokenizer

# fmt: off
BLEU = Definition(name="bleu", label="BLEU", topic=Topic.RESPONSES, better="higher",
    explanation="word n-grams in common with the references, from 0 to 100")
CHRF = Definition(name="chrf", label="chrF", topic=Topic.RESPONSES, better="higher",
    explanation="character n-grams in common with the references, from 0 to 100")
# fmt: on


def require_sacrebleu() -> None:
    """Raises a `MissingExtraError` unless sacrebleu is installed."""
    try:
        import_module("sacrebleu")
    except ImportError as error:  # also of what it needs
        raise MissingExtraError("BLEU and chrF need sacrebleu", "eval") from error


def overlap_metrics(responses: Sequence[str], references: Sequence[str]) -> tuple[list[Metric], dict[str, str]]:
    """Measures BLEU and chrF of responses, each with one reference, and returns the signature of each by its name.

    A signature has the settings that make values comparable. Sources: K. Papineni et al., BLEU (2002); M. Popovic, chrF
    (2015); M. Post, A Call for Clarity in Reporting BLEU Scores (2018).

    Raises:
        MissingExtraError: If sacrebleu is not installed.
    """
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU as Bleu
    from sacrebleu.metrics.chrf import CHRF as Chrf

    metrics, signatures = [], {}
    for definition, scorer in ((BLEU, Bleu(tokenize=bleu_tokenizer(references))), (CHRF, Chrf())):
        # sacrebleu's own bootstrap resamples these same sums, but cannot pair two models or use our draws.
        rows = np.array(scorer._extract_corpus_statistics(list(responses), [list(references)]), np.float64)
        metrics.append(Metric(definition, rows, _formula(scorer)))
        signatures[definition.name] = str(scorer.get_signature())
    return metrics, signatures


def _formula(scorer: Any) -> Formula:
    def score(sums: Sums) -> Sums:
        rows = sums.reshape(-1, sums.shape[-1]).round().astype(int).tolist()
        scores = np.array([scorer._compute_score_from_stats(row).score for row in rows])
        return scores.reshape(sums.shape[:-1])

    return score
