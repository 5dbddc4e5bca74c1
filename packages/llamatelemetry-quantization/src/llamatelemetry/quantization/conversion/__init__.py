"""How a Hugging Face checkpoint becomes a GGUF file, step by step; :func:`llamatelemetry.quantization.convert` does it.

Neither torch nor transformers is imported: configurations, tokenizers and weights are read as the files
they are, and as files that nobody vouches for.
"""
