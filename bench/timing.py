"""Times several contestants in turns, and prints their medians as a table and as one line of JSON."""

import importlib.metadata
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def compare(
    name: str,
    cases: Mapping[str, Mapping[str, Callable[[], float]]],
    *,
    rounds: Mapping[str, int],
    versions: Sequence[str],
    details: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Runs every contestant of every case several times, in turns; prints a table and, at the end, one JSON object.

    Args:
      name: of the benchmark.
      cases: for each case and contestant a function that measures once and returns seconds; ours is named "ours".
      rounds: for each case how often each contestant runs; the median counts.
      versions: the packages whose versions are printed.
      details: called after the measurements; prints more results and returns them for the JSON object.
    """
    results, ratios = {}, {}
    print(f"{'case':<28}{'contestant':<24}{'median':>12}{'least':>12}{'most':>12}{'ours / it':>12}")
    for case, contestants in cases.items():
        times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        for i in range(rounds[case]):
            order = list(contestants) if i % 2 == 0 else list(contestants)[::-1]
            for contestant in order:
                times[contestant].append(contestants[contestant]())
        medians = {contestant: statistics.median(values) for contestant, values in times.items()}
        peer = min((c for c in medians if c != "ours"), key=lambda c: medians[c])
        ratios[case] = medians["ours"] / medians[peer]
        results[case] = {"ours": medians["ours"], "peer": medians[peer], "peer_name": peer, "ratio": ratios[case]}
        for contestant, values in times.items():
            row = (medians[contestant], min(values), max(values), medians["ours"] / medians[contestant])
            print(f"{case:<28}{contestant:<24}{row[0]:>11.3g}s{row[1]:>11.3g}s{row[2]:>11.3g}s{row[3]:>12.2f}")
            sys.stdout.flush()
    found = {package: importlib.metadata.version(package) for package in versions}
    print(json.dumps({"name": name, "ratio": max(ratios.values()), "cases": results, "versions": found, **details()}))
