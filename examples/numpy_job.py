"""Large arrays: pictures go to a pool and come back without being copied into a pickle; numpy is needed."""

import sys
from typing import TYPE_CHECKING, Any

import aioproc

try:
    import numpy
except ModuleNotFoundError:
    sys.exit("this program needs numpy: pip install numpy")

if TYPE_CHECKING:
    Picture = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

SIDE = 1000
PICTURES = 6


def sharpen(picture: "Picture") -> "Picture":
    """Add to each point what it differs by from its neighbours; the array may be written to."""
    neighbours = sum(numpy.roll(picture, step, axis) for axis in (0, 1) for step in (-1, 1))
    picture += 0.25 * (4 * picture - neighbours)
    return picture


def made_up_picture(number: int) -> "Picture":
    return numpy.random.default_rng(number).random((SIDE, SIDE))


async def main() -> None:
    pictures = [made_up_picture(number) for number in range(PICTURES)]
    async with aioproc.AsyncPool() as pool:
        sharpened = [result async for result in pool.imap(sharpen, pictures)]
    megabytes = sum(picture.nbytes for picture in pictures) / 1e6
    print(f"{len(sharpened)} pictures of {SIDE} x {SIDE} points, {megabytes:.0f} MB, went there and back")
    print("all may be written to:", all(picture.flags.writeable for picture in sharpened))
    print("as if done here:", all(map(numpy.array_equal, sharpened, map(sharpen, pictures))))


if __name__ == "__main__":
    aioproc.run(main)
