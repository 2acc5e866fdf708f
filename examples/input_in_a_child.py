"""Ask for input() in a child: an error by default, the parent's input with stdin="inherit"."""

import aioproc


def ask() -> str:  # a plain function, because input() blocks
    return input("child: your name? ")


async def main() -> None:
    try:
        await aioproc.Process(target=ask)
    except EOFError as error:
        print(f"\nerror: {error}")
    name = await aioproc.Process(target=ask, stdin="inherit")
    print(f"\nparent: hello, {name}")


if __name__ == "__main__":
    aioproc.run(main)
