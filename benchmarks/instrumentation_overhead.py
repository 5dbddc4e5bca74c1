"""What instrumentations of transformers cost a call and a token, and what each of them measures right or wrong.

Run: nox -s bench -- instrumentation_overhead, which installs what is compared; with the Python of its
environment, .nox/torch-bench, the script itself takes [--json] [--pairs N] [--rounds N]

Compared on the same calls: nothing at all, which shows the noise; ours; and three others. Each is in a
process of its own (instrumentations/measure.py), on a model that costs next to nothing and whose
answers, token counts and time to the first token are known (instrumentations/calls.py). A cost is the
median, over pairs of blocks of calls with and without the instrumentation, of the difference in CPU time.
That of all threads includes ours that turns records into spans; the others do all on the caller's.

The baseline of a call is what OpenTelemetry's SDK alone takes to make the same spans and measurements once
more (instrumentations/replay.py): whoever wants that telemetry pays so much, and a tool that costs less has
less of it. So ours has to be cheapest of those that tell all five figures right, whoever they are, and what
a tool costs that tells less stands beside what it tells.

The others are installed without what they declare, in one environment with ours: openlit and
genai-otel-instrument want versions that exclude each other's and ours, of packages that nothing here
touches. All of them so run on the same transformers and the same OpenTelemetry.

A batch of four prompts is four requests. A figure is right if it is right for each of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from instrumentations.calls import CALLS
from instrumentations.contenders import CONTENDERS
from instrumentations.measure import FEW, MANY, TOKENS
from report import Row, report

OURS, NOTHING = "llamatelemetry", "nothing"
TTFT_ERROR_MS = 2.0

Found = Mapping[str, Any]


def measured(contender: str, pairs: int) -> Found:
    """What a process of its own found of a contender."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        command = [sys.executable, "-m", "instrumentations.measure", contender, str(path), str(pairs)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{contender}: {done.stderr[-2000:]}")
        found: Found = json.loads(path.read_text())
    return found


def pooled(rounds: list[Found]) -> dict[str, Any]:
    """The rounds of one contender together: all its pairs, and what its first round saw."""
    first = rounds[0]
    together = {key: [pair for found in rounds for pair in found[key]] for key in ("few_us", "many_us")}
    calls = {call: [pair for found in rounds for pair in found["call_us"][call]] for call in first["call_us"]}
    bare = {call: min(found["sdk_us"][call] for found in rounds) for call in first["sdk_us"]}
    return {**first, **together, "call_us": calls, "sdk_us": bare}


def cost_us(pairs: list[tuple[float, float]], thread: int = 0) -> float:
    """The median: of all threads, or with 1 of the caller's."""
    return median(pair[thread] for pair in pairs)


def token_us(found: Found) -> float:
    """What one token costs, of the calls with few and with many."""
    return (cost_us(found["many_us"]) - cost_us(found["few_us"])) / (MANY - FEW)


def verdicts(seen: Found) -> dict[str, str]:
    """Each figure of one call against the truth, in words."""
    if seen["error"]:
        return {"spans": f"the call raises {seen['error']}"}
    truth, requests = seen["truth"], seen["requests"]
    wanted = len(truth["prompt_tokens"])
    words = {"spans": "right" if len(requests) == wanted else f"{len(requests)} of {wanted}"}
    finish = [[reason] for reason in truth["finish_reasons"]]
    for figure, true in (("input", truth["prompt_tokens"]), ("output", truth["answer_tokens"]), ("finish", finish)):
        values = [request.get(figure) for request in requests]
        words[figure] = _judged(values, true)
    first = [request.get("first") for request in requests]
    if any(value is not None for value in first):
        error_ms = max(abs(value - truth["first_s"]) * 1e3 for value in first if value is not None)
        words["first"] = f"{'right' if error_ms < TTFT_ERROR_MS else 'wrong'}, {error_ms:.1f} ms off"
    else:
        words["first"] = "-"
    if not seen["same_answer"]:
        words["spans"] += ", and another answer"
    return words


def _judged(values: list[Any], true: list[Any]) -> str:
    if all(value is None for value in values):
        return "-"
    return "right" if values == true else f"wrong: {_plain(values)} for {_plain(true)}"


def _plain(values: list[Any]) -> str:
    return " ".join(value[0] if isinstance(value, list) else str(value) for value in values)


def rows(all_found: Mapping[str, Found]) -> list[Row]:
    """Costs by call, then by token."""
    costs = [
        Row(
            name=f"{call.name}: {name}{where}",
            value=cost_us(found["call_us"][call.name], thread),
            unit="us CPU",
            baseline=None if thread else found["sdk_us"][call.name] or None,
        )
        for call in CALLS
        for name, found in all_found.items()
        for thread, where in ((0, ""), (1, ", caller's thread"))
        if call.name in found["call_us"] and (thread == 0 or name == OURS)
    ]
    return costs + [
        Row(name=f"a token: {name}", value=token_us(found), unit="us CPU") for name, found in all_found.items()
    ]


def show(judged: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Prints what each measured right or wrong."""
    figures = {
        "spans": "spans",
        "input": "input tokens",
        "output": "output tokens",
        "finish": "finish",
        "first": "TTFT",
    }
    lines = [["", *figures.values()]]
    for name, calls in judged.items():
        for call, words in calls.items():
            lines.append([f"{name}: {call}", *(words.get(figure, "") for figure in figures)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    print()
    for line in lines:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def check(all_found: Mapping[str, Found], judged: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Ours is right everywhere, and the cheapest of those that are."""
    for call, words in judged[OURS].items():
        assert _is_right(words), f"{call}: {words}"
        ours = cost_us(all_found[OURS]["call_us"][call])
        for name, found in all_found.items():
            if name not in {OURS, NOTHING} and _is_right(judged[name][call]):
                theirs = cost_us(found["call_us"][call])
                assert ours <= theirs, f"{call}: {ours:.0f} us, and {name} takes {theirs:.0f}"


def _is_right(words: Mapping[str, str]) -> bool:
    return all(word.startswith("right") for word in words.values())


def main() -> None:
    """Measures, prints and holds the result against the budget."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rounds = [{name: measured(name, options.pairs) for name in CONTENDERS} for _ in range(options.rounds)]
    found = {name: pooled([one[name] for one in rounds]) for name in CONTENDERS}
    judged = {
        name: {call: verdicts(seen) for call, seen in found[name]["seen"].items()} for name in found if name != NOTHING
    }
    versions = {name: version(one.distribution) for name, one in CONTENDERS.items() if one.distribution}
    title = f"Instrumentations of transformers {version('transformers')}, calls of {TOKENS} tokens at most"
    if options.json:
        figures = [asdict(row) for row in rows(found)]
        print(json.dumps({"title": title, "versions": versions, "rows": figures, "measured": judged}))
    else:
        report(title, rows(found))
        show(judged)
        print("\n" + ", ".join(f"{name} {number}" for name, number in versions.items()))
    check(found, judged)


if __name__ == "__main__":
    main()
