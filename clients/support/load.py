"""Many callers at once."""

from concurrent.futures import ThreadPoolExecutor


def in_parallel(callers, call, items):
    """`call(item)` for every item by `callers` threads; the results in order, the first failure raised."""
    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(call, items))
