"""Make a process a class: override run(), as a coroutine or as a plain method."""

import asyncio

import aioproc


class Calculation(aioproc.Process[None]):
    def __init__(self, operation: str, a: int = 10, b: int = 20) -> None:
        super().__init__(name=f"{operation} of {a} and {b}")
        self.operation = operation
        self.a = a
        self.b = b


class AsyncCalculation(Calculation):
    async def run(self) -> None:
        await asyncio.sleep(0.1)
        print(f"coroutine: {self.name} is {self.a + self.b}")


class PlainCalculation(Calculation):
    def run(self) -> None:
        print(f"plain method: {self.name} is {self.a + self.b}")


class Forgetful(aioproc.Process[None]):
    def __init__(self) -> None:
        pass  # no super().__init__()


async def main() -> None:
    for kind in AsyncCalculation, PlainCalculation:
        p = kind("sum", a=1, b=2)
        await p.start()
        await p.join()
    try:
        await Forgetful().start()
    except RuntimeError as error:
        print(f"error: {error}")


if __name__ == "__main__":
    aioproc.run(main)
