"""How many errors in a dataset `facespace dataset check` finds: errors are inserted into real crops.

The people of `train_182` with odd numbers in order of name are linked into a temporary folder, and errors are inserted into
it. The rules were chosen on the other people. A few of the real labels are wrong, and a few photos are duplicates,
so findings that were not inserted are counted separately: those made before the insertion, and new ones.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance

from facespace.curation.checker import Findings, check
from facespace.curation.duplicates import Copy
from facespace.curation.keep_drop import propose
from facespace.datasets.formats.class_folders import read_class_folders
from facespace.embedding.embedder import Embedder

SEED = 2018
N_WRONG, N_EXACT, N_NEAR, N_UNREADABLE, N_SHARED, N_SHARED_IMAGES = 60, 40, 40, 5, 20, 5


def recompressed(picture: Image.Image, random: random.Random) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=random.randint(25, 70))
    return Image.open(stream).convert("RGB")


def resized(picture: Image.Image, random: random.Random) -> Image.Image:
    side = int(picture.width * random.uniform(0.4, 0.75))
    return picture.resize((side, side), Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BICUBIC)


def flipped(picture: Image.Image, _random: random.Random) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def brighter(picture: Image.Image, random: random.Random) -> Image.Image:
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(random.uniform(0.7, 1.3))).enhance(
        random.uniform(0.75, 1.25)
    )


def moved(picture: Image.Image, random: random.Random) -> Image.Image:
    """Crop again, with every border moved by up to 3 %."""
    box = [edge + random.uniform(-0.03, 0.03) * picture.width for edge in (6, 6, 176, 176)]
    return picture.transform(picture.size, Image.Transform.EXTENT, tuple(box), Image.Resampling.BILINEAR)


CHANGES: list[Callable[[Image.Image, random.Random], Image.Image]] = [recompressed, resized, flipped, brighter, moved]


def link(folders: list[tuple[str, list[str]]], root: Path) -> None:
    for name, paths in folders:
        (root / name).mkdir(parents=True)
        for path in paths:
            (root / name / os.path.basename(path)).symlink_to(path)


def names(findings: Findings, index: int) -> str:
    return os.path.relpath(findings.images.paths[index], findings.root)


def pairs(findings: Findings, copies: list[Copy]) -> dict[frozenset[str], Copy]:
    return {frozenset((names(findings, copy.first), names(findings, copy.second))): copy for copy in copies}


def row(what: str, planted: int, found: int, extra: int, natural: int, unit: str = "") -> None:
    precision = found / (found + extra) if found + extra else float("nan")
    print(
        f"{what:34s} planted {planted:3d}  found {found:3d}  recall {found / planted:.3f}  "
        f"new and not planted {extra:2d}  precision {precision:.3f}  (there before: {natural}){unit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    everybody = read_class_folders((parser.parse_args().shared / "data/train_182").resolve())
    people, absent = everybody[1::2], everybody[0::2]
    chance = random.Random(SEED)
    embedder = Embedder.load("casia-webface")
    print(f"{embedder.name}, {embedder.runtime} {embedder.precision}; seed {SEED}")
    with tempfile.TemporaryDirectory() as folder:
        clean, dirty, evaluation = Path(folder, "clean"), Path(folder, "dirty"), Path(folder, "evaluation")

        # Twenty people are in both sets, ten with a single photo in the evaluation set, ten with half of theirs;
        # twenty others, whom the dataset does not have, are there too.
        both = chance.sample([name for name, _ in people], N_SHARED)
        theirs: list[tuple[str, list[str]]] = []
        ours: list[tuple[str, list[str]]] = []
        for name, paths in people:
            given = paths[:1] if name in both[::2] else paths[: len(paths) // 2] if name in both else []
            theirs += [(f"evaluation {name}", given)] * bool(given)
            ours.append((name, paths[len(given) :]))
        strangers = [(f"evaluation {name}", paths) for name, paths in chance.sample(absent, N_SHARED)]
        link(ours, clean)
        link(ours, dirty)
        link(theirs + strangers, evaluation)
        before = check(clean, embedder, against=evaluation, against_crops=True)

        files = [(name, os.path.basename(path)) for name, paths in ours for path in paths]
        chance.shuffle(files)
        wrong: dict[str, str] = {}
        for name, file in files[:N_WRONG]:
            target = chance.choice([other for other, _ in ours if other != name])
            os.rename(dirty / name / file, dirty / target / f"wrong {file}")
            wrong[f"{target}/wrong {file}"] = name
        files = files[N_WRONG:]
        copied: dict[frozenset[str], tuple[str, str]] = {}
        for number in range(N_EXACT + N_NEAR):
            name, file = files.pop()
            change = None if number < N_EXACT else CHANGES[number % len(CHANGES)]
            # Two of five lie in another identity.
            across = number // len(CHANGES) % 5 in (1, 3)
            target = chance.choice([other for other, _ in ours if other != name]) if across else name
            new = f"{target}/copy {number} {file.removesuffix('.jpg')}.png"
            with Image.open(dirty / name / file) as picture:
                (change(picture.convert("RGB"), chance) if change else picture).save(dirty / new)
            kind = ("exact" if change is None else change.__name__) + (" across" if across else "")
            copied[frozenset((f"{name}/{file}", new))] = kind, new
        damaged = set()
        for name, file in files[:N_UNREADABLE]:
            new = f"{name}/damaged {file}"
            (dirty / new).write_bytes((dirty / name / file).read_bytes()[: chance.choice([0, 10, 500])])
            damaged.add(new)
        leaked = set()
        for name, file in files[-N_SHARED_IMAGES:]:
            (evaluation / strangers[0][0] / f"leaked {file}").symlink_to((dirty / name / file).resolve())
            leaked.add(f"{name}/{file}")

        start = time.perf_counter()
        findings = check(dirty, embedder, against=evaluation, against_crops=True)
        seconds = time.perf_counter() - start
        assert findings.evaluation is not None
        assert before.evaluation is not None
        n = len(findings.images.paths)
        print(f"{len(people)} people, {n} readable images, and {len(findings.evaluation.paths)} of {2 * N_SHARED} people "
              f"in the evaluation set; checked in {seconds:.0f} s\n")  # fmt: skip

        said = {names(findings, i) for i in findings.labels.wrong.nonzero()[0]}
        old = {names(before, i) for i in before.labels.wrong.nonzero()[0]}
        # Copies laid into another identity are wrong labels too.
        strays = {new for kind, new in copied.values() if kind.endswith("across")}
        false = said - set(wrong) - strays - old
        row("wrong labels", len(wrong), len(said & set(wrong)), len(false), len(old))
        right = [
            i for i in findings.labels.wrong.nonzero()[0]
            if findings.images.names[findings.labels.nearest[i]] == wrong.get(names(findings, i))
        ]  # fmt: skip
        print(f"    their right identity is the nearest other: {len(right)} of {len(said & set(wrong))}")
        print(f"    copies laid into another identity, called wrong labels: {len(said & strays)} of {len(strays)}")

        found, known = pairs(findings, findings.copies), pairs(before, before.copies)
        kinds = defaultdict(list)
        for pair, (kind, _) in copied.items():
            kinds[kind].append(pair in found)
        # A copy of a photo that was there twice is found as a copy of either.
        news = {new for _, new in copied.values()}
        exact = {pair for pair, (kind, _) in copied.items() if kind.startswith("exact")}
        for what, planted, is_exact in (("exact copies", exact, True), ("near copies", set(copied) - exact, False)):
            of_kind = {pair for pair, copy in found.items() if copy.exact == is_exact}
            moved_too = {
                frozenset(pair) for pair in of_kind if any(os.path.basename(f).startswith("wrong ") for f in pair)
            }
            extra = {pair for pair in of_kind - set(known) - moved_too if not pair & news}
            natural = sum(copy.exact == is_exact for copy in known.values())
            row(what, len(planted), len(planted & set(found)), len(extra), natural)
        print("    " + ", ".join(f"{kind} {sum(hits)}/{len(hits)}" for kind, hits in sorted(kinds.items())))

        proposals = {os.path.relpath(p.path, findings.root): p for p in propose(findings)}
        originals = {next(iter(pair - {new})) for pair, (kind, new) in copied.items() if kind.endswith("across")}
        unreadable = {os.path.relpath(path, findings.root) for _, path, _ in findings.images.unreadable}
        row("unreadable files", len(damaged), len(damaged & unreadable), len(unreadable - damaged), 0)
        lost = [f for f in originals - old if proposals[f].reason in ("wrong label", "copy in other identity")]
        print(f"    of copies across identities the planted one is proposed to be dropped: "
              f"{sum(proposals[new].drop for new in strays)} of {len(strays)}; "
              f"the original, for its label: {len(lost)} of {len(originals - old)}")  # fmt: skip

        matched = {
            (findings.images.names[s.first], findings.evaluation.names[s.second]) for s in findings.shared if s.is_match
        }
        for what, group in (
            ("shared people, one photo there", both[::2]),
            ("shared people, half of theirs", both[1::2]),
        ):
            row(what, len(group), sum((name, f"evaluation {name}") in matched for name in group), 0, 0)
        wrongly = [pair for pair in matched if pair[1] != f"evaluation {pair[0]}"]
        print(f"    people called shared who are not, of {len(people) - N_SHARED} others: {len(wrongly)}")
        hits = {names(findings, copy.second) for copy in findings.shared_copies}
        there = {names(before, copy.second) for copy in before.shared_copies}
        row(
            "images in the evaluation set",
            len(leaked),
            len(leaked & hits),
            len(hits - leaked - there - news),
            len(there),
        )
        drops = sum(p.drop for p in proposals.values())
        print(f"\nproposed to drop: {drops} of {len(proposals)} files")


if __name__ == "__main__":
    main()
