"""Base and tuned in, a comparison page and a terminal conversation out: offline, on this machine."""
