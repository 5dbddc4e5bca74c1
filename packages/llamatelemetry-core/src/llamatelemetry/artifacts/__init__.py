"""What a pipeline makes: files with their digests, where they came from, and who can check it."""
