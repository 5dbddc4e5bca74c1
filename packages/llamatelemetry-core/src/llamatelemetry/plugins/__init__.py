"""Finding, checking and loading what other distributions register."""
