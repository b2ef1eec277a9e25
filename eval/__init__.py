"""GGUF files to numbers with error bars. Never `import eval` bare, which hides the builtin: `from eval.mcq import ...`."""
