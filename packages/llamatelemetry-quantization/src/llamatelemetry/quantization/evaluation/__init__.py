"""What a quantized model lost, and what each of its weights matters, measured with real llama.cpp."""
