"""Answers against the expected ones: BLEU and chrF by sacrebleu, ROUGE by rouge-score, length, how many end.

These measure likeness in words, not truth: an answer may be right in other words, and wrong in nearly the same. Corpus scores are
sacrebleu's own, with their signatures; ROUGE and the others are means over answers with a standard error over them. How many answers
are exactly the expected ones is a share like that of right choices (eval/accuracy.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.accuracy import INTERVALS

ROUGES = ("rouge1", "rouge2", "rougeL")
PROTOCOL = (
    "Held-out conversations drawn by the seed; the answer to the first question, greedy, in the file's chat template, cut after "
    "max_tokens. Exactly right: the expected words and no more, but for capitals and whitespace; that is strict: an answer in "
    "other words may be right, and a base that has not learned to answer briefly has little chance. "
    f"{INTERVALS} "
    "BLEU and chrF: sacrebleu's corpus scores (signatures beside them). ROUGE: F-measures of rouge-score with stemming, mean over "
    "answers. ended: the model ended the answer by itself."
)


def measure(said: Sequence[Mapping[str, Any]], expected: Sequence[str]) -> dict[str, Any]:
    """Scores of one model's answers, tables of text, tokens and ended, against the expected texts: (answers,) both."""
    import sacrebleu
    from rouge_score import rouge_scorer

    texts = [it["text"] for it in said]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    bleu_score, chrf_score = (metric.corpus_score(texts, [list(expected)]) for metric in (bleu, chrf))
    scorer = rouge_scorer.RougeScorer(list(ROUGES), use_stemmer=True)
    rouge = [scorer.score(reference, text) for reference, text in zip(expected, texts, strict=True)]
    return {
        "bleu": {"score": bleu_score.score, "signature": str(bleu.get_signature())},
        "chrf": {"score": chrf_score.score, "signature": str(chrf.get_signature())},
        **{name: mean([100 * score[name].fmeasure for score in rouge]) for name in ROUGES},
        "tokens": mean([float(it["tokens"]) for it in said]),
        "expected_words": mean([float(len(words(text))) for text in expected]),
        "words": mean([float(len(words(text))) for text in texts]),
        "ended": mean([float(it["ended"]) for it in said]),
    }


def mean(values: Sequence[float]) -> dict[str, float | None]:
    """A mean with its standard error; None for a single value."""
    count = len(values)
    center = math.fsum(values) / count
    spread = math.fsum((value - center) ** 2 for value in values)
    return {"mean": center, "standard_error": math.sqrt(spread / (count - 1) / count) if count > 1 else None}


def words(text: str) -> list[str]:
    """What is compared of an answer that may be exactly right."""
    return text.casefold().split()
