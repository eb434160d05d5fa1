"""Times of several jobs in one run, taken in turns, so that a noisy machine disturbs all alike."""

import time
from collections.abc import Callable, Mapping


def fastest(jobs: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Returns each job's shortest time, seconds."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def report(title: str, times: Mapping[str, float], limit: str) -> None:
    """Prints each time and its ratio to the limit, the job that nothing can beat."""
    print(f"\n{title}")
    for name, seconds in times.items():
        print(f"  {name:<40} {1000 * seconds:9.1f} ms   {seconds / times[limit]:5.2f} x {limit}")
