"""Training: time to an F1 compared with the standard recipe, images per second, cost and memory by dataset size.

    PYTHONPATH=. python tests/benchmarks/bench_training.py [--parts PART,...] [--device auto] [--data FOLDER]

recipe  A frozen SqueezeNet with cached features and a kernel head, compared with the standard recipe
        (plain_recipe.py), which decodes the posters and runs the backbone in each epoch. The recipe stops when it
        reaches the best F1 of its ten epochs. Both use the same training part, validation part, cross-fitted
        thresholds, precision, threads and memory format (channels last). The frozen backbone is timed twice: with
        empty caches, and with cached pixels and features as in a later training.
lp-ft   The whole backbone trained after fitting its head (LP-FT), and with a new last layer. F1 is that of the fifth of
        the training part on which the epoch is chosen.
sample  A kernel head whose mean, deviation and components are those of some posters, as of 200,000 of a million,
        compared with those of all; five folds. F1 is out of fold, over five draws of a tenth to four fifths.
growth  Dataset, features, kernel head, leak gauge, evaluation, reports and look-alikes at 1,000, 10,000 and 100,000
        synthetic posters: time per poster, anonymous memory, open files; one run. See --growth.
rate    Training images per second end to end, as a share of the same network's rate on random tensors on the device.
        On a GPU: ResNet18 at 256 x 256, compiled or not, at 1,000, 5,000 and 20,000 synthetic posters, with peak
        memory. On a CPU: a smaller setting. See --network, --size, --posters and --compile.
features  Images per second of the features of a frozen backbone, as a share of its rate on random tensors, at the same
        network and, unless --size is given, at 256 x 256.

The first three parts need `posters/anime.zip`, or `posters/movies.zip` for `sample`, and
`weights/squeezenet1_1-imagenet-features.pth` in FOLDER (`../shared`, or ANIME_GENRE_REAL_DATA). Figures are medians
(minimum to maximum) of the runs; the two sides take turns.
"""

import argparse
import logging
import os
import tempfile
from pathlib import Path

from growth import growing
from training_rates import RateSetting, feature_rates, training_rates
from training_to_f1 import RealPosters, against_the_recipe, fine_tuned, space_of_a_sample

from ml.compute import choose_compute

PARTS = ("recipe", "lp-ft", "sample", "growth", "rate", "features")
COUNTS = "1000,5000,20000"
GROWTH = "1000,10000,100000"
CPU_COUNTS, CPU_SIZE, CUDA_SIZE = "640", 64, 256
EPOCHS = {False: 2, True: 4}  # of 'rate', by whether there is a GPU; the first one warms up
COMPILED = {"off": [False], "on": [True], "both": [False, True]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--recipe-size", type=int, default=256, help="image size in 'recipe'")
    parser.add_argument("--fine-tuned-size", type=int, default=128, help="image size in 'lp-ft'")
    parser.add_argument("--growth", default=GROWTH, help="numbers of posters in 'growth'")
    parser.add_argument("--network", default="resnet18", help="in 'rate': scratch, or a torchvision network")
    parser.add_argument(
        "--size", type=int, help=f"image size in 'rate'; default: {CUDA_SIZE} on a GPU, else {CPU_SIZE}"
    )
    parser.add_argument(
        "--posters", help=f"numbers of posters in 'rate'; default: {COUNTS} on a GPU, else {CPU_COUNTS}"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--compile", choices=COMPILED, help="in 'rate'; default: both on a GPU, else off")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part '{min(unknown)}': choose from {', '.join(PARTS)}")
    logging.getLogger("ml.data.dataset").setLevel(logging.ERROR)  # it reports omitted genres for every dataset
    of_real = {"recipe", "lp-ft"} & set(parts)
    compute = choose_compute(arguments.device)
    on_gpu = compute.device.type == "cuda"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        real = RealPosters.unpacked(Path(arguments.data), folder) if of_real else None
        if real is None and of_real:
            print(f"The parts recipe and lp-ft are skipped: {arguments.data} has no real posters and weights.")
        if real and "recipe" in parts:
            against_the_recipe(real, folder, arguments.recipe_size, arguments.runs, compute)
        if real and "lp-ft" in parts:
            fine_tuned(real, folder, arguments.fine_tuned_size, arguments.runs, compute)
        if "sample" in parts:
            movies = RealPosters.unpacked(Path(arguments.data), folder, "movies")
            if movies is None:
                print(f"The part sample is skipped: {arguments.data} has no posters of movies and no weights.")
            else:
                space_of_a_sample(movies, folder, arguments.fine_tuned_size, compute)
    if "growth" in parts:
        growing(numbers(arguments.growth), arguments.device)
    if "rate" in parts:
        setting = RateSetting(
            arguments.network,
            arguments.size or (CUDA_SIZE if on_gpu else CPU_SIZE),
            arguments.batch_size,
            arguments.device,
            EPOCHS[on_gpu],
            arguments.runs,
        )
        counts = numbers(arguments.posters or (COUNTS if on_gpu else CPU_COUNTS))
        training_rates(setting, counts, COMPILED[arguments.compile or ("both" if on_gpu else "off")])
    if "features" in parts:
        count = 4096 if on_gpu else 256
        feature_rates(arguments.network, count, arguments.size or CUDA_SIZE, arguments.runs, arguments.device)


def numbers(listed: str) -> list[int]:
    return [int(number) for number in listed.split(",")]


if __name__ == "__main__":
    main()
