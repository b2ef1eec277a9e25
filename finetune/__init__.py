"""Medical text and a base model in, a LoRA adapter out."""
