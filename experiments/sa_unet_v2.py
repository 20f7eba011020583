"""SA-UNetv2 on DRIVE, on two CPU cores: train, score, write the card.

    python experiments/sa_unet_v2.py --data-dir DRIVE [--resume]

Trains the recipe `cpu` on the 20 training images of DRIVE (1.7 hours on a shared
machine), scores the weights of the last epoch on the 20 test images by all four
protocols, and writes `weights/sa_unet_v2_drive` and
`experiments/results/sa_unet_v2_drive.json`. The test images choose nothing: the
recipe and the threshold of 0.5 were fixed before they were looked at.
"""

import argparse
import json
import shutil
from pathlib import Path

from saunet.data.datasets import load_dataset
from saunet.data.images import write_bytes
from saunet.evaluation import POOLINGS, REGIONS, evaluate, to_json
from saunet.inference import PADDING, Segmenter
from saunet.models import build_model
from saunet.training import RECIPES, train
from saunet.weights import load_weights, sha256_of, write_card

ROOT = Path(__file__).resolve().parents[1]
NAME = "sa_unet_v2_drive"
RECIPE = RECIPES["cpu"]
THRESHOLD = 0.5


def main():
    """Runs the experiment; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", required=True, help="folder of DRIVE")
    parser.add_argument("--run", default=f"runs/{NAME}", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with a run")
    args = parser.parse_args()

    samples = load_dataset("drive", args.data_dir, "train")
    train(RECIPE, samples, args.run, resume=args.resume)
    # As users load it: in float32, whatever precision it was trained in.
    model = build_model(RECIPE.model, **RECIPE.model_kwargs)
    load_weights(model, Path(args.run) / "last.weights.h5")
    segmenter = Segmenter(model, threshold=THRESHOLD, padding=PADDING)
    scores = score(segmenter, load_dataset("drive", args.data_dir, "test"))
    ship(json.loads((Path(args.run) / "run.json").read_text()), scores, args.run)


def score(segmenter, samples):
    """Returns the result of each of the four protocols."""
    maps = [segmenter.predict(sample.image) for sample in samples]
    return [
        evaluate(maps, samples, region=region, pooling=pooling, threshold=THRESHOLD)
        for region in REGIONS
        for pooling in POOLINGS
    ]


def ship(run, scores, run_dir):
    """Writes the weights with their card, and the results with per-image rows."""
    folder = ROOT / "weights" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.weights.h5"
    shutil.copyfile(Path(run_dir) / "last.weights.h5", weights)
    about = {"dataset": "DRIVE", "split": "test"}
    card = {
        "name": NAME,
        "model": RECIPE.model,
        "model_kwargs": RECIPE.model_kwargs,
        "weights": weights.name,
        "sha256": sha256_of(weights),
        "preprocessing": {"scale": "divided by 255", "padding": PADDING},
        "threshold": {
            "value": THRESHOLD,
            "chosen_on": "no image; fixed beforehand, as in the papers",
        },
        "data": {
            "dataset": "DRIVE",
            "split": "official training part",
            "images": run["images"],
        },
        "scores": [
            about | {k: v for k, v in result.items() if k != "per_image"}
            for result in scores
        ],
        "training": {
            "recipe": run["recipe"],
            "seed": RECIPE.seed,
            "device": run["device"],
            "versions": run["versions"],
            "commit": run["commit"],
            "hours": run["hours"],
        },
        "limits": (
            "Trained on 20 photographs of one camera (45 degrees, 565x584 pixels), "
            "most of them without disease. Other cameras and sizes need images scaled "
            "so that vessels are as wide as in DRIVE."
        ),
        "licence": (
            "Weights under Apache-2.0 as far as they are ours; DRIVE's own terms "
            "(research) apply to what was learnt from it."
        ),
    }
    write_card(folder, card)
    results = ROOT / "experiments" / "results" / f"{NAME}.json"
    results.parent.mkdir(exist_ok=True)
    record = {**run, "scores": [json.loads(to_json(result)) for result in scores]}
    write_bytes(results, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
