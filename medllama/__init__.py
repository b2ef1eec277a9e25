"""What every stage of medllama shares: command line, configuration, run directory, prompts, the llama.cpp binding."""

__version__ = "0.1.0"
