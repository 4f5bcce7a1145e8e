"""BLEU and chrF as sacrebleu computes them.

Owns: the border to sacrebleu.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convmodel.errors import MissingExtraError
from convmodel.evaluation.metric import Figure, Sums
from convmodel.evaluation.word_split import bleu_tokenizer


def overlap_figures(responses: Sequence[str], references: Sequence[str]) -> tuple[list[Figure], dict[str, str]]:
    """Makes BLEU and chrF of responses, each with one reference.

    Sources: K. Papineni et al., BLEU (2002); M. Popovic, chrF (2015); M. Post, A Call for Clarity in Reporting BLEU
    Scores (2018), for signatures.

    Returns:
        The figures, from 0 to 100; and the signature of each, which another has to give for comparable numbers.

    Raises:
        MissingExtraError: If sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise MissingExtraError("BLEU and chrF need sacrebleu: pip install 'convmodel[eval]'") from error
    metrics = {"bleu": ("BLEU", BLEU(tokenize=bleu_tokenizer(references))), "chrf": ("chrF", CHRF())}
    figures = []
    for name, (label, metric) in metrics.items():
        # Its own bootstrap resamples these same sums, but cannot pair two models or use our draws.
        rows = np.array(metric._extract_corpus_statistics(list(responses), [list(references)]), np.float64)
        figures.append(Figure(name, label, rows, _scorer(metric), "higher"))
    return figures, {name: str(metric.get_signature()) for name, (_, metric) in metrics.items()}


def _scorer(metric: Any) -> Any:
    def score(sums: Sums) -> Sums:
        flat = sums.reshape(-1, sums.shape[-1]).round().astype(int).tolist()
        found = np.array([metric._compute_score_from_stats(row).score for row in flat])
        return found.reshape(sums.shape[:-1])

    return score
