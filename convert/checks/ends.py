"""Check 9: generation ends. Every end id of generation_config.json (else config.json) and of the chat template ends generation in
llama.cpp with this file loaded. An end that is none is a model that never stops talking."""

from __future__ import annotations

from convert.certificate import Check, failed
from convert.checks.metadata import Ends
from medllama.llamacpp import Model

REASON = "llama.cpp, and Ollama on top of it, stop at these ids and at no other"


def check_ends(model: Model, ends: Ends) -> Check:
    """Every end id is one of llama.cpp's, and BOS is none."""
    count, missing = len(ends.all_ends), [index for index in ends.all_ends if not model.is_end(index)]
    if missing:
        return failed(
            "ends", "the model would go on past its own end: eos_token_id or eot_token_id is wrong in the file",
            where=", ".join(f"token {index}" for index in missing), figure=f"{len(missing)} of {count} do not end",
            bound="0", reason=REASON,
        )  # fmt: skip
    if ends.bos is not None and ends.bos not in ends.all_ends and model.is_end(ends.bos):
        cause = "generation ends with BOS, which begins every prompt"
        return failed("ends", cause, where=f"token {ends.bos}", figure="BOS ends", bound="0", reason=REASON)
    return Check("ends", "pass", f"{count} of {count} end", "all", REASON, details={"ids": list(ends.all_ends)})
