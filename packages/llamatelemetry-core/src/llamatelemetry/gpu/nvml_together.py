"""The figures of several questions taken in one go, for what is read again and again.

With sixteen devices that is 640 calls a second, and what Python does around each costs more than the
call. So the answers lie side by side in memory that is taken once: while nothing is refused, the calls
are made one after the other and all figures are taken out at once. Otherwise each is asked for by its
question, which knows what a refusal means.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from llamatelemetry.gpu.nvml_calls import Asking
from llamatelemetry.gpu.nvml_questions import Question


class Answers:
    """Memory for answers of NVML, side by side.

    Args:
        layout: What is taken out, at which places.

    Attributes:
        layout: As given.
        block: The memory.
    """

    __slots__ = ("block", "layout")

    def __init__(self, layout: Struct) -> None:
        self.layout: Struct = layout
        self.block: bytearray = bytearray(layout.size)

    def placed(self, kind: Any, at: int) -> Any:
        """A structure or number of ctypes whose memory begins at that byte."""
        return kind.from_buffer(self.block, at)


class Together:
    """Some questions about one device, in one thread at a time.

    Args:
        answers: Where all of their answers go.
        questions: The questions.

    Attributes:
        questions: As given.
        answered: Which of them have an answer, once :meth:`take` has answers.
    """

    __slots__ = ("_block", "_calls", "_unpack", "answered", "questions")

    def __init__(self, answers: Answers, *questions: Question) -> None:
        self.questions: tuple[Question, ...] = questions
        self.answered: tuple[bool, ...] = ()
        self._block, self._unpack = answers.block, answers.layout.unpack
        self._calls: tuple[Callable[[], int], ...] = ()

    def take(self) -> tuple[Any, ...] | None:
        """All answers as they lie in memory; None where they have to be asked for one by one."""
        if not (calls := self._calls):
            return None
        for call in calls:
            if call():
                return None
        return self._unpack(self._block)

    def ask(self) -> list[Any]:
        """Asks one by one.

        Raises:
            DeviceLostError: The device is gone.
        """
        figures = [question.ask() for question in self.questions]
        ways = [question.call for question in self.questions]
        direct = [way.call for way in ways if isinstance(way, Asking)]
        self.answered = tuple(way is not None for way in ways)
        is_settled = all(question.is_settled for question in self.questions)
        self._calls = tuple(direct) if is_settled and len(direct) == sum(self.answered) else ()
        return figures
