"""A certified GGUF in, a package that Ollama and people can use out."""
