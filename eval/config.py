"""The configuration of `medllama eval`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medllama.config import option

SHORTEST_WINDOW = 8  # tokens: half of them are read before the first is predicted


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """A GGUF, the base's beside it, and tasks in; results with their uncertainty out."""

    gguf: Path | None = option(None, help="the GGUF to measure; --panel alone needs none", kind="path", metavar="FILE")
    output: Path = option(
        help="the results to write, for example results.json; every item goes to items-TASK.jsonl beside it",
        kind="output",
        metavar="FILE",
    )
    baseline: Path | None = option(
        None,
        help="the base's GGUF, converted in the same way, to compare with on the same items",
        kind="path",
        metavar="FILE",
    )
    task: tuple[str, ...] = option(
        (),
        help="medqa, medqa5, medmcqa, pubmedqa or mmlu-medical, as NAME:PATH of its official file (without a path from the hub); or "
        "JSONL of multiple-choice items or of conversations (answers' perplexity); or a .txt (perplexity in windows)",
        kind="task",
        metavar="NAME_OR_FILE",
    )
    data: Path | None = option(
        None,
        help="folder that prepare made: its multiple_choice.jsonl and test.jsonl are tasks too, and its "
        "train.jsonl is what items are "
        "searched for in",
        kind="path",
        metavar="DIR",
    )
    prompt: Literal["auto", "plain", "chat"] = option(
        "auto",
        help="ask questions as plain text or in the file's chat template (auto: plain for a named task, chat for JSONL)",
    )
    scored_by: Literal["auto", "letter", "text"] = option(
        "auto", help="what is scored of an option (auto: what the task's wording has, the text for JSONL)"
    )
    shots: int = option(
        0, help="answered examples before each question, from the file beside the task's or NAME:PATH?shots=FILE"
    )
    max_records: int = option(400, help="conversations measured per task: a sample by --seed where there are more")
    window: int | None = option(
        None, help="tokens of a window of long texts (default: the model's context; of a .txt: 512)"
    )
    examples: tuple[str, ...] = option(
        (), help="questions that both models answer, beside held-out ones; in a run, the recipe's examples", kind="text"
    )
    samples: int = option(
        6, help="held-out questions that both models answer, for people to read; none is picked by hand"
    )
    generate: int = option(
        32,
        help="held-out questions whose answers are compared with the expected ones (exactly right, BLEU, chrF, ROUGE)",
    )
    domain_prompts: bool = option(True, help="let both models sum up, explain and go on too, for people to read")
    max_answer_tokens: int = option(128, help="the tokens after which such an answer is cut")
    card: tuple[str, ...] = option(
        (),
        help="files of one model in several types, an unrounded one among them: what each loses and costs (the quant card)",
        kind="path",
        metavar="FILE",
    )
    card_tokens: int = option(4096, help="tokens of the tasks' texts on which the card compares")
    within: str | None = option(
        None,
        help='bounds that name the smallest file of the card, for example "kld<0.02, size<4GB"',
        kind="text",
        metavar="EXPR",
    )
    panel: Path | None = option(
        None, help="blind ratings of people, as the app exports them", kind="path", metavar="FILE"
    )
    seed: int = option(0, help="seed of these samples and of the bootstrap")
    threads: int | None = option(None, help="CPU threads (default: all); another number may change the last digits")

    def problems(self) -> list[str]:
        of_a_file = [name for name in ("task", "data", "baseline", "card") if getattr(self, name)]
        is_asked = self.task or self.data or self.panel
        found = [] if is_asked else ["task: name a task, or --data the folder that prepare made, or --panel ratings"]
        if self.gguf is None and (of_a_file or not self.panel):
            found.append(f"gguf: name the file to measure{', for ' + ', '.join(of_a_file) if of_a_file else ''}")
        for name, least in (
            ("max_records", 1),
            ("max_answer_tokens", 1),
            ("samples", 0),
            ("generate", 0),
            ("shots", 0),
            ("seed", 0),
            ("card_tokens", 1),
        ):
            if (value := getattr(self, name)) < least:
                found.append(f"{name}: {value} must be {least} or more")
        if self.output.is_dir():
            found.append(f"output: {self.output} is a folder; name a file in it: {self.output / 'results.json'}")
        if self.window is not None and self.window < SHORTEST_WINDOW:
            found.append(f"window: {self.window} must be {SHORTEST_WINDOW} or more")
        if self.within and not self.card:
            found.append("within: there is nothing to choose from; name files: --card F16.gguf Q8_0.gguf Q4_K_M.gguf")
        if self.threads is not None and self.threads < 1:
            found.append(f"threads: {self.threads} must be 1 or more")
        return found

    def implied_outputs(self) -> list[Path]:
        """The items' and answers' files beside the results."""
        return sorted(self.output.parent.glob("*.jsonl"))
