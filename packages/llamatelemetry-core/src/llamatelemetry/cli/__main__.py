"""``python -m llamatelemetry.cli``, for when the console script is not on PATH."""

from llamatelemetry.cli import main

main()
