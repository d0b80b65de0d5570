"""The installed Python distributions as entity maps. Blocking: run it in a worker thread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from typing import Any, Final

__all__ = ["SCHEMA", "Package", "installed", "normalized"]

SCHEMA: Final = """
[{:db/ident :package/name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity :db/doc "Normalized name"}
 {:db/ident :package/version :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/doc "Installed version; absent where a package is only asked for"}
 {:db/ident :package/summary :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :package/needs :db/valueType :db.type/ref :db/cardinality :db.cardinality/many
  :db/doc "Packages that must be installed for this one to work here"}
 {:db/ident :package/requirement :db/valueType :db.type/ref :db/cardinality :db.cardinality/many
  :db/isComponent true}
 {:db/ident :package/file :db/valueType :db.type/ref :db/cardinality :db.cardinality/many
  :db/isComponent true}
 {:db/ident :requirement/key :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :requirement/text :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :requirement/package :db/valueType :db.type/ref :db/cardinality :db.cardinality/one}
 {:db/ident :requirement/applies :db/valueType :db.type/boolean :db/cardinality :db.cardinality/one
  :db/doc "Whether its markers hold on this machine"}
 {:db/ident :requirement/met :db/valueType :db.type/boolean :db/cardinality :db.cardinality/one}
 {:db/ident :file/key :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :file/path :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :file/bytes :db/valueType :db.type/long :db/cardinality :db.cardinality/one}
 {:db/ident :run/finished :db/valueType :db.type/instant :db/cardinality :db.cardinality/one
  :db/doc "When a load was complete"}]
"""


def normalized(name: str) -> str:
    """Return a project name in its comparable form."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass
class Package:
    """One installed distribution. ``requirements`` map a text to (package, applies, met)."""

    name: str
    version: str
    summary: str
    requirements: dict[str, tuple[str, bool, bool]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def entities(self) -> list[dict[str, Any]]:
        """Return the entity maps that say all of it; the needed packages come first."""
        needed = {n for n, applies, _ in self.requirements.values() if applies}
        mentioned = {n for n, _, _ in self.requirements.values()} - {self.name}
        out: list[dict[str, Any]] = [{":package/name": name} for name in sorted(mentioned)]
        package: dict[str, Any] = {
            ":package/name": self.name,
            ":package/version": self.version,
            ":package/summary": self.summary,
            ":package/needs": [[":package/name", n] for n in sorted(needed - {self.name})],
            ":package/requirement": [
                {
                    ":requirement/key": f"{self.name}: {text}",
                    ":requirement/text": text,
                    ":requirement/package": [":package/name", name],
                    ":requirement/applies": applies,
                    ":requirement/met": met,
                }
                for text, (name, applies, met) in self.requirements.items()
                if name != self.name
            ],
            ":package/file": [
                {":file/key": f"{self.name}: {path}", ":file/path": path, ":file/bytes": size}
                for path, size in self.files.items()
            ],
        }
        return [*out, package]

    def keys(self) -> tuple[set[str], set[str]]:
        """Return the keys of its requirements and of its files."""
        requirements = {
            f"{self.name}: {text}"
            for text, (n, _, _) in self.requirements.items()
            if n != self.name
        }
        return requirements, {f"{self.name}: {path}" for path in self.files}


def installed() -> Iterator[Package]:
    """Read the distributions of the running interpreter, each name once, in order of name."""
    from packaging.requirements import InvalidRequirement, Requirement

    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normalized(name), distribution)
    versions = {name: d.version for name, d in found.items()}
    for name in sorted(found):
        distribution = found[name]
        package = Package(name, distribution.version, distribution.metadata["Summary"] or "")
        for text in distribution.requires or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            target = normalized(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            version = versions.get(target)
            met = version is not None and requirement.specifier.contains(version, prereleases=True)
            package.requirements[text] = (target, applies, met)
        for path in distribution.files or ():
            if path.suffix == ".pyc":
                continue
            size = path.size
            package.files[path.as_posix()] = size if size is not None else _size(distribution, path)
        yield package


def _size(distribution: Distribution, path: Any) -> int:
    try:
        return int(distribution.locate_file(path).stat().st_size)  # type: ignore[attr-defined]
    except OSError:
        return 0
