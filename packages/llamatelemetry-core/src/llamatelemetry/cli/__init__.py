"""The ``llamatelemetry`` command."""
