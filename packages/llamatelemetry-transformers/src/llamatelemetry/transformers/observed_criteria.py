"""Sees every step of every way that transformers generates, from the one place that all of them pass.

Sampling, beams and assisted decoding share nothing but the question, after each step, whether to stop.
The list of criteria that answers it is made by ``generate`` itself, and this is that list with a note
taken at each call: it holds what it held before, answers as it did, and adds no work on the device.

Imports transformers; imported when that is.
"""

from __future__ import annotations

from typing import Any, Final

from llamatelemetry.transformers.steps import Steps
from transformers.generation.stopping_criteria import StoppingCriteriaList

_ask: Final = StoppingCriteriaList.__call__


def observed(criteria: Any, steps: Steps) -> Any:
    """A list of stopping criteria that is watched.

    Args:
        criteria: The list that ``generate`` made.
        steps: What is seen goes there.
    """
    return _ObservedCriteria(criteria, steps)


class _ObservedCriteria(StoppingCriteriaList):  # type: ignore[misc]
    def __init__(self, criteria: Any, steps: Steps) -> None:
        super().__init__(criteria)
        self._steps = steps

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Asks the criteria, as ever. What stands around that is what a token costs, so it is no more."""
        steps = self._steps
        try:
            # First: the tokens are there, and the criteria may take their time.
            (steps.mark or steps.begin(input_ids))()
            steps.latest = input_ids
            if steps.sizes is not None:
                steps.sizes.append(input_ids.shape[1])
        except Exception:  # noqa: BLE001 - whatever a new version hands over, it is no reason to stop generating
            return _ask(self, input_ids, scores, **kwargs)
        done = _ask(self, input_ids, scores, **kwargs)
        if steps.done is not None:
            steps.done.append(done)
        return done
