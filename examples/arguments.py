"""Hand arguments to a process: what is in kwargs beats the target's defaults."""

import aioproc


async def calculate(operation: str, a: int = 10, b: int = 20) -> None:
    if operation == "sum":
        print(f"{a} + {b} = {a + b}")


async def main() -> None:
    p = aioproc.Process(target=calculate, args=("sum",), kwargs={"a": 1, "b": 2})
    await p.start()


if __name__ == "__main__":
    aioproc.run(main)
