"""Answers against the expected ones: BLEU and chrF by sacrebleu, ROUGE by rouge-score, exact match, length, how many end.

These measure likeness in words, not truth: an answer may be right in other words, and wrong in nearly the same. Corpus scores are
sacrebleu's own, with their signatures; ROUGE and exact match are means over answers with a standard error over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

ROUGES = ("rouge1", "rouge2", "rougeL")
PROTOCOL = (
    "Held-out conversations drawn by the seed; the answer to the first question, greedy, in the file's chat template, cut after "
    "max_tokens. BLEU and chrF: sacrebleu's corpus scores (signatures beside them). ROUGE: F-measures of rouge-score with stemming, "
    "mean over answers. exact_match: the same words but for capitals and whitespace. ended: the model ended the answer by itself."
)


def measure(
    texts: Sequence[str], tokens: Sequence[int], ended: Sequence[bool], expected: Sequence[str]
) -> dict[str, Any]:
    """Scores of one model's answers, (answers,) each, against the expected texts."""
    import sacrebleu
    from rouge_score import rouge_scorer

    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    bleu_score, chrf_score = (metric.corpus_score(list(texts), [list(expected)]) for metric in (bleu, chrf))
    scorer = rouge_scorer.RougeScorer(list(ROUGES), use_stemmer=True)
    rouge = [scorer.score(reference, text) for reference, text in zip(expected, texts, strict=True)]
    matches = [words(text) == words(reference) for text, reference in zip(texts, expected, strict=True)]
    return {
        "answers": len(texts),
        "bleu": {"score": bleu_score.score, "signature": str(bleu.get_signature())},
        "chrf": {"score": chrf_score.score, "signature": str(chrf.get_signature())},
        **{name: mean([100 * score[name].fmeasure for score in rouge]) for name in ROUGES},
        "exact_match": mean([float(match) for match in matches]),
        "tokens": mean([float(count) for count in tokens]),
        "expected_words": mean([float(len(words(text))) for text in expected]),
        "words": mean([float(len(words(text))) for text in texts]),
        "ended": mean([float(it) for it in ended]),
    }


def mean(values: Sequence[float]) -> dict[str, float | None]:
    """A mean with its standard error; None for a single value."""
    count = len(values)
    center = math.fsum(values) / count
    spread = math.fsum((value - center) ** 2 for value in values)
    return {"mean": center, "standard_error": math.sqrt(spread / (count - 1) / count) if count > 1 else None}


def words(text: str) -> list[str]:
    """What an exact match compares."""
    return text.casefold().split()
