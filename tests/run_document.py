"""Runs the examples of one document, in order, as a reader would: ``python run_document.py PATH``.

It is a process of its own, in a folder of its own, because telemetry is set up once per process and
examples write files. What runs: ``python`` blocks, in one namespace; ``console`` blocks, whose
output must be the one shown (``...`` stands for anything); captioned code blocks, which are written
to the file that the caption names.
"""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.myst.lexers import DirectiveLexer

MATCHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_console(example: Example) -> str | None:
    """Runs each ``$`` line in a shell; says what went wrong, or nothing."""
    for session in example.parsed.split("$ ")[1:]:
        command, _, shown = session.partition("\n")
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        printed = done.stdout + done.stderr
        if done.returncode != 0:
            return f"{command!r} exited with {done.returncode}:\n{printed}"
        if shown.strip() and not doctest.OutputChecker().check_output(shown.strip(), printed.strip(), MATCHING):
            return f"{command!r} printed, instead of what is shown:\n{printed}"
    return None


def write_file(example: Example) -> None:
    """Writes a captioned code block to the file its caption names."""
    path, text = example.parsed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def captioned_blocks(document: Document) -> Iterable[Region]:
    """Code blocks with a caption."""
    for region in DirectiveLexer("code-block")(document):
        region.parsed = Path(region.lexemes["options"]["caption"]), str(region.lexemes["source"]).lstrip("\n")
        region.evaluator = write_file
        yield region


def main(path: str) -> str | None:
    """Runs every example of a document; says so if there is none."""
    parsers = (PythonCodeBlockParser(), CodeBlockParser("console", run_console), captioned_blocks)
    examples = list(Sybil(parsers).parse(Path(path)))
    for example in examples:
        example.evaluate()
    return None if examples else f"{path} has no examples"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
