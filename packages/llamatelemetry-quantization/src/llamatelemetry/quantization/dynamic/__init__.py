"""A type for each group of tensors, chosen under a budget by what it costs the model, measured."""
