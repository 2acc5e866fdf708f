"""Build the wheel, look into it, install it alone, and use it: ``python .ci/wheel.py FOLDER``."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
import aioproc

async def main():
    print(await aioproc.Process(target=pow, args=(2, 5)))

if __name__ == "__main__":
    assert not {"asyncio", "anyio", "multiprocessing"} & set(sys.modules), "import aioproc is not lean"
    aioproc.run(main)
"""


def expected() -> set[str]:
    """The package, its marker for type checkers, the licence; nothing else."""
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "aioproc").rglob("*.py")}
    return (
        package
        | {"aioproc/py.typed", *(f"info/{name}" for name in ("METADATA", "RECORD", "WHEEL"))}
        | {"info/licenses/LICENSE"}
    )


def contents(wheel: Path) -> set[str]:
    """What is in a wheel, with its .dist-info folder called ``info``."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    return {name.replace(info, "info", 1) for name in names}


def main(folder: Path) -> None:
    """Stop with an error at the first thing that is not as it must be."""
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    assert contents(wheel) == expected(), contents(wheel) ^ expected()

    alone = folder / "alone"
    venv.create(alone, with_pip=True)
    subprocess.run([alone / "bin/pip", "install", "-q", str(wheel)], check=True)
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [alone / "bin/python", "program.py"], cwd=folder, check=True, capture_output=True, text=True
    )
    assert done.stdout == "32\n", done
    print(f"{wheel.name}: as it must be, and enough by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
