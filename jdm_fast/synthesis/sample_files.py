"""Tuples as files: folders of what is given in, a folder of pictures for each domain and grids of the first out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jdm_fast.synthesis.conditions import Size
from jdm_fast.synthesis.given_files import GivenFiles
from jdm_fast.synthesis.model import Model
from jdm_fast.synthesis.sample import require_count
from jdm_fast.synthesis.tuple_folder import TupleFolder, TupleGrid, require_free, save_grid

Progress = Callable[[int, int], None]


@dataclass
class Sampled:
    """What was written: the number of ``tuples`` and ``pictures`` that were drawn, and the ``grids``."""

    tuples: int = 0
    pictures: int = 0
    grids: list[Path] = field(default_factory=list)


def sample_files(
    model: Model,
    output: str | os.PathLike[str],
    n: int | None = None,
    *,
    given: Mapping[str, str | os.PathLike[str]] | None = None,
    order: str | None = None,
    draws: int | None = None,
    only: str | None = None,
    size: int | Size | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    resize: bool = False,
    on_progress: Progress | None = None,
) -> Sampled:
    """Draw tuples into a new folder, in memory that does not grow with their number.

    ``output/x/00000.png`` and ``output/y/00000.png`` are one tuple; what is given gives it its name, and draws are
    numbered ``name-0.png``. Vectors are ``output/y.npy``, float32 [N, D] or [N, draws, D]. ``output/grid.png`` shows
    the first, one row each.

    Args:
        model: see :func:`jdm_fast.synthesis.load`.
        output: a new or empty folder.
        given: by domain a folder of pictures (or one picture), or for vectors a .npy file [N, D]. Pictures of several
            domains belong together by their names; vectors are in the order of the names.
        n, order, draws, only, size, seed, batch_size, resize: see :meth:`Model.sample`.
        on_progress: called with the number of pictures drawn, and in all.

    Raises:
        UserError: as :meth:`Model.sample`, nothing to read or files that cannot be read, all of which are named before
            anything is written; an impossible output.
    """
    sampler, form = model.sampler, model.sampler.form
    folder = require_free(output)
    sampler.check(tuple(given or {}), order, draws, only)
    files = GivenFiles(form, given or {})
    sizes = files.check_sizes(size, resize)
    count = require_count(n, len(files) if given else None)
    made = [domain for domain in form.domains if domain not in files.paths] if only is None else [only]
    kept = list(files.paths) if only is None else []
    pictured = [domain for domain in made if domain in form.image_domains]
    grid = TupleGrid([domain for domain in kept if domain in form.image_domains], pictured, draws)
    settings = {"n": count, "order": order, "draws": draws, "only": only, **_shared(model, files, size, resize, seed)}
    done = Sampled()
    with TupleFolder(folder) as writer:
        for first, last in files.runs(sizes, count, batch_size):
            values = form.conditions(files.read(first, last), size, resize)
            pieces = sampler.pieces(
                [(number, draw) for number in range(first, last) for draw in range(draws or 1)],
                values,
                order=order,
                only=only,
                size=form.image_size(values, size),
                seed=seed,
                batch_size=batch_size,
                first=first,
            )
            for tuples, arrays in pieces:
                if not done.tuples:  # only now is it sure that all that was asked for can be drawn
                    writer.settings(**settings)
                for place, (number, draw) in enumerate(tuples):
                    name = files.name(number, count)
                    name, shape = (name, (count,)) if draws is None else (f"{name}-{draw}", (count, draws))
                    for domain, array in arrays.items():
                        writer.write(domain, name, array[place], shape)
                        grid.add(domain, number, draw, array[place])
                done.tuples += len(tuples)
                done.pictures += len(tuples) * len(pictured)
                if on_progress:
                    on_progress(done.pictures, count * (draws or 1) * len(pictured))
            for domain in kept:
                for number, value in enumerate(sampler.to_arrays(values[domain], domain), first):
                    writer.write(domain, files.name(number, count), value, (count,))
                    grid.add(domain, number, 0, value)
        writer.finish()
    done.grids = grid.save(folder / "grid.png")
    return done


def interpolate_files(
    model: Model,
    output: str | os.PathLike[str],
    mode: str = "corners",
    *,
    steps: int = 8,
    rows: int = 4,
    given: Mapping[str, str | os.PathLike[str]] | None = None,
    order: str | None = None,
    size: int | Size | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    resize: bool = False,
    on_progress: Progress | None = None,
) -> Sampled:
    """Draw :meth:`Model.interpolate` into a new folder.

    ``output/grid-x.png`` is the grid of domain x, ``output/x/2-5.png`` the picture in its row 2 and column 5, both from
    0. Of mode ``fixed``, what stays is ``output/x/2.png`` and the first column of the other grids.

    Args:
        mode, steps, rows, order, size, seed, batch_size, resize: see :meth:`Model.interpolate`.
        model, output, given, on_progress: see :func:`sample_files`.

    Raises:
        UserError: as :func:`sample_files`.
    """
    sampler, form = model.sampler, model.sampler.form
    folder = require_free(output)
    sampler.check(tuple(given or {}), order, None, None)
    files = GivenFiles(form, given or {})
    files.check_sizes(size, resize)
    pictured = [domain for domain in form.image_domains if domain not in files.paths]

    def on_tuples(done: int, total: int) -> None:
        if on_progress:
            on_progress(done * len(pictured), total * len(pictured))

    values = sampler.interpolate(
        steps, mode, files.read(0, len(files)), order, rows, seed, size, batch_size, resize, on_tuples
    )
    tables = [domain for domain, array in values.items() if array.ndim == (5 if domain in form.image_domains else 3)]
    done = Sampled(tuples=int(np.prod(values[tables[0]].shape[:2])))
    settings = {"mode": mode, "steps": steps, "rows": rows, "order": order}
    with TupleFolder(folder) as writer:
        writer.settings(**settings, **_shared(model, files, size, resize, seed))
        for domain, array in values.items():
            shape = array.shape[: 2 if domain in tables else 1]
            for index in np.ndindex(shape):
                writer.write(domain, "-".join(map(str, index)), array[index], shape)
            if domain in pictured:
                done.pictures += int(np.prod(shape))
        writer.finish()
    stay = [domain for domain in form.image_domains if domain not in tables and mode == "fixed"]
    for domain in tables:
        if domain in form.image_domains:
            grid = [[*(values[other][row] for other in stay), *line] for row, line in enumerate(values[domain])]
            titles = [*stay, domain, *[""] * (steps - 1)]
            done.grids.append(save_grid(folder / f"grid-{domain}.png", grid, titles))
    return done


def _shared(model: Model, files: GivenFiles, size: int | Size | None, resize: bool, seed: int) -> dict[str, Any]:
    """Settings of both kinds, for sample.json."""
    given = {domain: str(path) for domain, path in files.paths.items()}
    return {"run": model.name, "given": given, "size": size, "resize": resize, "seed": seed}
