"""Packages with entry points, as an installer leaves them: modules, and a `.dist-info` folder beside them."""

from collections.abc import Mapping
from pathlib import Path


def install(
    folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], *, code: str = "", version: str = "1.0"
) -> None:
    """Puts a package with one module into a folder, which is then to be on `sys.path`.

    Args:
        folder: The folder that packages are installed into.
        name: The package's name; the module has underscores in it.
        entry_points: For each group, what each entry point is called and where it is.
        code: The module's source.
        version: The package's version.
    """
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{point} = {place}" for point, place in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
