"""python -m tests.faults --studies 500 --seed 0: disturb so many small studies, and check that each one recovers.

Each study gets one fault, drawn by the seed: a kill, a full disk, a damaged file. Afterwards the same command is given
until it succeeds, and every number must be that of an undisturbed study. The table at the end says which faults were
tried how often. `--only kill` takes the faults whose name contains the word, `--list` shows them all. Study
30 of a seed is the same wherever a campaign begins: `--first 20 --studies 20` goes on where `--studies 20` ended, and
`--undisturbed FILE` keeps what all are compared with from one campaign to the next, of the same code on one machine.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.faults import FAULTS, UnavailableError
from tests.faults.studies import SmallStudy, undisturbed_results


def main() -> int:
    """Run the campaign; return 1 if a study did not recover."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first study")
    parser.add_argument("--undisturbed", type=Path, help="JSON file of the undisturbed results; made if it is missing")
    parser.add_argument("--only", default="", help="take the faults whose name contains this")
    parser.add_argument("--list", action="store_true", help="show the faults and end")
    asked = parser.parse_args()
    names = [name for name in FAULTS if asked.only in name]
    if asked.list or not names:
        print("\n".join(FAULTS))
        return 0 if names else 2
    tried, failed, unavailable = Counter(), [], {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        root = Path(folder)
        expected = _undisturbed(root, asked.undisturbed)
        for number in range(asked.first, asked.first + asked.studies):
            draws = random.Random(f"{asked.seed}/{number}")  # noqa: S311  # which fault and when, not a secret
            name, began = names[number % len(names)], time.monotonic()
            study = SmallStudy(root / f"study-{number}")
            try:
                FAULTS[name](study, draws)
                study.recover()
                study.check(expected)
            except UnavailableError as reason:
                unavailable[name] = str(reason)
                continue
            except (AssertionError, subprocess.TimeoutExpired) as problem:  # the latter: a command that never ended
                failed.append((number, name, str(problem)))
            finally:
                study.remove()
            tried[name] += 1
            end = f"did not recover: {failed[-1][2]}" if failed and failed[-1][0] == number else "recovered"
            print(f"study {number}  {name}  {end}  {time.monotonic() - began:.0f} s", flush=True)
    print("\n| fault | studies |\n|---|---|")
    print("\n".join(f"| {name} | {count} |" for name, count in sorted(tried.items())))
    for name, reason in unavailable.items():
        print(f"not tried: {name} ({reason})")
    for number, name, problem in failed:
        print(f"\nstudy {number} of seed {asked.seed} did not recover from: {name}\n{problem}")
    return 1 if failed else 0


def _undisturbed(root: Path, kept: Path | None) -> dict[str, Any]:
    """Return the results of an undisturbed study, from the file that keeps them if there is one."""
    if kept is not None and kept.exists():
        return dict(json.loads(kept.read_text()))
    results = undisturbed_results(root / "undisturbed")
    if kept is not None:
        kept.write_text(json.dumps(results))
    return results


if __name__ == "__main__":
    sys.exit(main())
