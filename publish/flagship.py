"""The Modelfile at the repository's root: the flagship's (recipes/llama2-7b.yaml), made by the code that packages it.

    python -m publish.flagship        write it again, after the recipe or the code has changed

The weights are gated, so the licence's text is not here: `medllama package` takes it from the base's folder and writes it into the
package's own Modelfile, and this one only points to it. The prompt format needs no weights: it is the llama2 family's.
"""

from __future__ import annotations

from pathlib import Path

from medllama.chat import FAMILY_TEMPLATES, Chat
from medllama.files import write_text
from medllama.pipeline import configure
from medllama.recipe import RECIPES, load_recipe
from medllama.stages import BY_NAME
from medllama.tokenizer import Tokenizer
from medllama.vocabulary import TokenType, Vocabulary
from publish.modelfile import write_modelfile
from publish.package import default_file
from publish.prompt_format import context_tokens, modelfile_commands, prompt_format, runs

RECIPE = "llama2-7b"
MODELFILE = RECIPES.parent / "Modelfile"
CONTEXT_LENGTH = 4096  # Llama 2's

COMMENTS = (
    f"medllama's flagship: medllama run {RECIPE} makes the file that FROM names, in runs/medllama/package,",
    "with this Modelfile and the licence in it. To use this one, put that file beside it: ollama create medllama -f Modelfile",
    "",
    "Licence: Llama 2 Community License, https://ai.meta.com/llama/license. Its text and notice travel with the weights.",
)

# Llama 2's special tokens are all that its chat format needs of its vocabulary.
VOCABULARY = Vocabulary(
    model="llama",
    tokens=("<unk>", "<s>", "</s>"),
    types=(TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL),
    scores=(0.0, 0.0, 0.0),
    origin=Path("tokenizer.model"),
    unk_id=0,
    bos_id=1,
    eos_id=2,
)


def flagship_modelfile() -> str:
    """The text of the Modelfile."""
    recipe = load_recipe(RECIPE, overridden=["source"])
    run = Path("runs") / recipe.name
    config, train = (configure(BY_NAME[name], recipe, run, {}) for name in ("package", "train"))
    commands = modelfile_commands(
        runs(default_file([Path(file).name for file in config.gguf])),
        prompt_format(Chat(FAMILY_TEMPLATES["llama2"], Tokenizer(VOCABULARY))),
        system=config.system or "",
        temperature=config.sampling_temperature,
        num_ctx=context_tokens(config.num_ctx, train.max_length, CONTEXT_LENGTH),
        licences=(),
    )
    return write_modelfile(commands, COMMENTS)


if __name__ == "__main__":
    write_text(MODELFILE, flagship_modelfile())
