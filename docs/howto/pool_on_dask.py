"""A pool on a Dask cluster: only the executor changes, the code around the pool stays."""

import os

import aioproc


def work(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


async def squares(pool: aioproc.AsyncPool) -> list[int]:
    answers = [answer async for answer in pool.imap(work, range(5))]
    assert all(pid != os.getpid() for _, pid in answers)
    return [square for square, _ in answers]


async def main() -> None:
    from distributed import Client, LocalCluster

    async with aioproc.AsyncPool(2) as pool:
        print("own workers:", await squares(pool))

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            async with aioproc.AsyncPool(executor=client.get_executor()) as pool:
                print("Dask cluster:", await squares(pool))


if __name__ == "__main__":
    aioproc.run(main)
