"""Several GPUs: how they are linked, and what of a model goes where."""
