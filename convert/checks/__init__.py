"""The checks of `medllama verify`, one module each, and what they share: the GGUF read by hand, and the Hugging Face side."""
