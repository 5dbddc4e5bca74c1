"""Asking NVML for what it may not tell: an answer or None, and never an exception.

Much of what topology is made of is missing in virtual machines, in containers and from older
drivers. Each refusal is kept in words, so that a gap can be explained where it is shown. Everything
is asked once; ``gpu.nvml_questions`` is for what is asked again and again.
"""

from __future__ import annotations

from typing import Any, Final

EMPTY: Final = "the driver gave an empty set"


class Inquiry:
    """What is asked about one GPU or one pair of them.

    Attributes:
        absences: What was refused, to the reason in words.
    """

    def __init__(self) -> None:
        self.absences: dict[str, str] = {}

    def ask(self, figure: str, function: str, *arguments: Any) -> Any:
        """Calls a function of NVML.

        Args:
            figure: What the answer is called, where it must be said that there is none.
            function: A function of ``pynvml``; one that it does not have is a refusal like another.
            arguments: Its arguments. One that is None was refused before, and so is this.

        Returns:
            The answer; None if it was refused.
        """
        import pynvml

        if any(argument is None for argument in arguments):
            self.absent(figure, "the driver does not find the GPU")
            return None
        call = getattr(pynvml, function, None)
        if call is None:
            self.absent(figure, f"the installed nvidia-ml-py has no {function}")
            return None
        try:
            return call(*arguments)
        except Exception as refusal:  # noqa: BLE001 - what cannot be had is absent, whatever the binding does.
            self.absent(figure, f"{function}: {str(refusal) or type(refusal).__name__}")
            return None

    def absent(self, figure: str, reason: str) -> None:
        """Keeps why a figure is absent; the first reason is the one that counts."""
        self.absences.setdefault(figure, reason)

    def answered(self, figure: str) -> None:
        """Forgets that a figure was refused, once it is told another way."""
        self.absences.pop(figure, None)
