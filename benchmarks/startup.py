"""How long it takes until a command begins: a fresh interpreter each time, the median of several.

    python benchmarks/startup.py [REPEATS]

The goal is 0.5 s for each on one idle core; a bare interpreter is shown beside it. Exit status 1 if one is slower.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

GOAL_SECONDS = 0.5
COMMANDS = {
    "bare interpreter": ["-c", "pass"],
    "import evolve": ["-c", "import evolve"],
    "import evolve.config": ["-c", "import evolve.config"],
    "import evolve.journal": ["-c", "import evolve.journal, evolve.lineage"],
    "evolve --help": ["-m", "evolve", "--help"],
    "evolve run --help": ["-m", "evolve", "run", "--help"],
}


def seconds(arguments: list[str], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats + 1):  # the first fills the file cache
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return sorted(taken[1:])


def main() -> int:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    slow = False
    for name, arguments in COMMANDS.items():
        taken = seconds(arguments, repeats)
        median = statistics.median(taken)
        slow |= median > GOAL_SECONDS
        print(f"{name:<22} {median:.3f} s  (fastest {taken[0]:.3f}, slowest {taken[-1]:.3f}, {repeats} runs)")
    print(f"goal: {GOAL_SECONDS} s each: {'missed' if slow else 'met'}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
