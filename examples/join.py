"""Wait for a process: with join(), the child's line always comes first."""

import aioproc


async def calculate(operation: str, a: int = 10, b: int = 20) -> None:
    if operation == "sum":
        print(f"child: {a} + {b} = {a + b}")


async def main() -> None:
    p = aioproc.Process(target=calculate, args=("sum",), kwargs={"a": 1, "b": 2})
    await p.start()
    await p.join()
    print("parent: the child has ended")


if __name__ == "__main__":
    aioproc.run(main)
