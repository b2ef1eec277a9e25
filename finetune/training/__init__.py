"""Records and a base in, an adapter out: what `finetune.train` is made of."""
