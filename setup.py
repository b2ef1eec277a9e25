"""The one part that is compiled: llama.cpp's quantizers in vectors (medllama/llamacpp/vectorized/), for two widths of them.

    python setup.py build_ext --inplace       # compile again after a change; `make setup` does it, too

Where it does not compile, for want of a compiler or of such a processor, installing goes on, and llama.cpp's own quantizers
are used.
"""

from setuptools import Extension, setup

EXACT = ["-O3", "-ffp-contract=off", "-fno-math-errno"]  # no fused multiply-add: it rounds otherwise than ggml
# Compiled again when one of these changes: other flags may mean other bytes.
COMPILED_FROM = ["medllama/llamacpp/vectorized/fit.h", "medllama/llamacpp/vectorized/lanes.h", "setup.py"]
QUIET = ["-fvisibility=hidden", "-Wno-psabi"]

setup(
    ext_modules=[
        Extension(
            f"medllama.llamacpp.vectorized._{width}",
            ["medllama/llamacpp/vectorized/blocks.c"],
            depends=COMPILED_FROM,
            extra_compile_args=[*EXACT, *QUIET, f"-m{flag}", f"-DLANES={lanes}"],
            optional=True,
        )
        for width, flag, lanes in (("avx2", "avx2", 8), ("avx512", "avx512f", 16))
    ]
)
