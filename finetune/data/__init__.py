"""Sources in, cleaned and deduplicated and split records out: what `finetune.prepare` is made of."""
