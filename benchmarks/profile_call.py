"""
Shows where the time of one contender's warm call goes: ``python benchmarks/profile_call.py asgi-rendered``.

cProfile makes every Python call dearer and no C call: read it as a list of suspects, and `warm.py` as the judge.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sys

from contenders import CONTENDERS, WARM_UP_CALLS
from warm import running


def main() -> None:
    """Profile, and print; the contender's own lines go nowhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("contender", choices=CONTENDERS)
    # Below what a queue holds: see warm.py.
    parser.add_argument("--calls", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("--sort", default="tottime", choices=("tottime", "cumtime", "ncalls"))
    parser.add_argument("--lines", type=int, default=45, help="of the list (default: %(default)s)")
    parser.add_argument("--callers", metavar="FUNCTION", help="who calls the functions of this name, instead")
    arguments = parser.parse_args()
    contender = CONTENDERS[arguments.contender]
    with open(os.devnull, "w") as nowhere, running("sink.py") as sink:
        endpoint = f"http://127.0.0.1:{sink.read()}/{arguments.contender}"
        os.environ.update(contender.environ, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        sys.stdout, stdout = nowhere, sys.stdout
        try:
            call, close, _ = contender.make()
            for _ in range(WARM_UP_CALLS):
                call()
            profile = cProfile.Profile()
            profile.enable()
            for _ in range(arguments.calls):
                call()
            profile.disable()
            close()
        finally:
            sys.stdout = stdout
    stats = pstats.Stats(profile).strip_dirs().sort_stats(arguments.sort)
    print(f"{arguments.calls} calls; divide by that")
    if arguments.callers:
        stats.print_callers(arguments.callers)
    else:
        stats.print_stats(arguments.lines)


if __name__ == "__main__":
    main()
