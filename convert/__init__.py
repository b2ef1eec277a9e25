"""A base and an adapter in, GGUF files and the certificate that they are that model out."""
