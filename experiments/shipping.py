"""Weights of runs as they are scored and shipped: `weights/<row>_<dataset>/`."""

import io
from pathlib import Path

import h5py
from records import THRESHOLD
from rows import ROOT

from saunet.data.datasets import DATASETS
from saunet.data.images import write_bytes
from saunet.data.runs import read_run
from saunet.errors import InputError
from saunet.weights import CARD, read_card, sha256_of, write_card

SHIPPED = ROOT / "weights"
SHIPPED_BYTES = 3_000_000
HALVED = (
    "Kernels are stored in float16, and were scored so: in float32 they take over 3 MB."
)


def weights_name(record, dataset):
    """Returns the folder of a row's weights in `weights/`."""
    name = f"{record['row']}_{dataset}"
    return name if record["fold"] is None else f"{name}_fold{record['fold']}"


def shippable(path):
    """Returns the weights that are scored and shipped: as trained, or halved.

    Where a file is over 3 MB and would not be in half precision, its kernels are
    stored in float16 in a file beside it, and that is scored: RSAN's 4.2 MB. All
    other arrays, such as the variances of normalisation, stay in float32.
    """
    if not SHIPPED_BYTES < path.stat().st_size < 2 * SHIPPED_BYTES:
        return path
    halved = path.with_name(path.name.replace(".weights", "_float16.weights"))
    content = io.BytesIO()
    with h5py.File(path, "r") as source, h5py.File(content, "w") as target:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                made = target.create_group(name)
            else:
                array = item[()]
                made = target.create_dataset(
                    name, data=array.astype("float16") if array.ndim > 1 else array
                )
            made.attrs.update(item.attrs)

        target.attrs.update(source.attrs)
        source.visititems(copy)
    if len(content.getvalue()) > SHIPPED_BYTES:
        return path
    write_bytes(halved, content.getvalue())
    return halved


def ship(record, row, folder, root=None):
    """Puts a run's weights into `weights/<row>_<dataset>/`, with a card.

    Weights of more than 3 MB stay where they are: their results are enough. Other
    weights that lie there already are never replaced.

    Returns:
        The folder, or None for weights that are too large.
    """
    source = Path(folder) / record["weights"]
    if source.stat().st_size > SHIPPED_BYTES:
        print(f"{source} is larger than {SHIPPED_BYTES / 1e6:.0f} MB: not shipped")
        return None
    target = check_place(row, Path(folder), root)
    name, digest = target.name, sha256_of(source)
    target.mkdir(parents=True, exist_ok=True)
    weights = target / "model.weights.h5"
    write_bytes(weights, source.read_bytes())
    seen = read_run(folder).get("seen_sha256", [])
    write_card(target, card_of(name, record, row, digest, seen))
    print(f"shipped to {target}")
    return target


def check_place(row, folder, root=None):
    """Returns the folder for the weights of a run, if it does not hold other ones."""
    name = weights_name({"row": row.key, "fold": row.fold}, row.dataset)
    target = Path(root or SHIPPED) / name
    own = [sha256_of(path) for path in folder.glob("*.weights.h5")]
    if (target / CARD).exists() and read_card(target)["sha256"] not in own:
        raise InputError(
            f"{target} holds the weights of another run: remove that folder first if "
            "these are to take its place"
        )
    return target


def card_of(folder, record, row, digest, seen):
    """Returns the card of shipped weights."""
    dataset, name = DATASETS[row.dataset], record["recipe_name"]
    recipe = row.recipe(name, record["seed"])
    unseen = [image["name"] for image in record["per_image"]["frame"]]
    about = {"dataset": dataset.title, "split": "test"}
    held_out = record["validation"]
    split = "official training part" if dataset.train else "training part of "
    split += "" if dataset.train else f"fold {row.fold}"
    if held_out:
        split += f", without {', '.join(held_out)}, which chose the epoch"
    height, width = dataset.size
    diameter = record.get("fov_diameter")
    halved = "float16" in record["weights"]
    started = record.get("start_images", [])
    began = f", from {recipe.start_from}'s weights" if started else ""
    return {
        "name": folder,
        "model": recipe.model,
        "model_kwargs": row.network_kwargs(name),
        "weights": "model.weights.h5",
        "sha256": digest,
        **({"storage": HALVED} if halved else {}),
        "preprocessing": {
            "scale": "divided by 255",
            "padding": row.padding(name),
            **({"fov_diameter": diameter} if diameter else {}),
        },
        "threshold": {
            "value": THRESHOLD,
            "chosen_on": "no image; fixed beforehand, as in the papers",
        },
        "data": {
            "dataset": dataset.title,
            "split": split,
            "images": record["images"],
            **({"validation": held_out} if held_out else {}),
            **({"start_images": started} if started else {}),
            "seen_sha256": seen,
            "never_seen": unseen,
        },
        "scores": [about | score for score in record["scores"]],
        "training": {
            "recipe": record["recipe"],
            "seed": record["seed"],
            "device": record["device"],
            "versions": record["versions"],
            "commit": record["commit"],
            "hours": record["hours"],
            **({k: record[k] for k in ("continued",) if k in record}),
        },
        "limits": (
            f"Trained on {len(record['images'])} photographs of one camera "
            f"({width}x{height} pixels){began}. "
            f"{_unseen(name, started)}: {dataset.title} {', '.join(unseen)}. "
            "`saunet predict` scales photographs of other cameras until their field of "
            f'view is as wide as in {dataset.title}; from Python `scale="auto"` does.'
        ),
        "licence": (
            "Weights under Apache-2.0 as far as they are ours; "
            f"{dataset.title}'s own terms (research) apply to what was learnt from it."
        ),
    }


def _unseen(recipe, started):
    """Returns how far the test images, which follow, had no part in the weights."""
    if recipe == "best" or started:
        of_start = ", or that of the weights it began with," if started else ""
        return (
            "The test part trained nothing and chose no epoch or threshold, but the "
            f"recipe{of_start} was made when an earlier recipe's scores on it were "
            "known; it is"
        )
    return "Never seen, neither for training nor for any choice"
