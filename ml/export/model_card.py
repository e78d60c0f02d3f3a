"""The model card of a bundle (Mitchell et al. 2019, https://arxiv.org/abs/1810.03993).

It describes the model to people who do not have its training run. It is not part of the bundle's hash.
"""

from ml.data.dataset import Dataset
from ml.data.splits import PARTS, VALIDATION
from ml.scores.calibration import calibrate_genres
from ml.scores.intervals import Predictions, intervals
from ml.scores.metrics import SCALARS, Scores
from ml.training.outcome import NetworkOutcome, TrainingOutcome

_TRAINED = {
    "frozen": "a head fitted on a frozen backbone",
    "lp-ft": "a backbone fine-tuned after its head",
    "whole": "all layers trained",
}


def model_card(outcome: TrainingOutcome, dataset: Dataset, date: str | None = None) -> str:
    """The card in Markdown, without durations and paths. `date` is the date of the data, if known."""
    chosen = outcome.chosen
    rows = dataset.rows(VALIDATION)
    predictions = Predictions(chosen.validation_probabilities, chosen.validation_probabilities >= chosen.thresholds)
    precision = intervals(predictions, dataset.labels[rows], dataset.franchises[rows]).mean_average_precision
    calibrations = calibrate_genres(
        chosen.validation_probabilities, dataset.labels[rows], outcome.bench.frequencies, dataset.genre_names
    )
    size = dataset.preprocessing.size
    served = chosen.exported.served if chosen.exported else None
    lines = [
        "# Genres of an anime from its poster",
        "",
        f"Network: {chosen.name}{f' ({chosen.backbone})' if chosen.backbone else ''}, {_TRAINED[chosen.trained]}. "
        f"Input: a poster resized to {size} x {size} pixels without keeping its proportions. Output: for each genre a "
        "probability, and whether it reaches the genre's threshold.",
        "",
        *_weights(chosen),
        *((f"Served in {served.precision}. {served.reason}", "") if served else ()),
        "## Data",
        "",
        f"{f'Posters and genres as of {date}; dataset' if date else 'Dataset'} {dataset.key[:12]}. Titles of one "
        "franchise are in the same part. Franchises are derived from titles, related titles and posters that look "
        f"alike. {dataset.suspects_notice()}".rstrip(),
        "",
        "| part | posters |",
        "| --- | --- |",
        *(f"| {part} | {len(dataset.rows(part))} |" for part in PARTS),
        "",
        "## Comparison on the validation part",
        "",
        f"{outcome.reason} All networks of the table were trained on the training part alone, where their epochs and "
        "trials were chosen, too. The validation part decided which network is chosen. Of networks whose weighted F1 "
        "differs by less than one standard error, the one that trains fewer weights is chosen. Each genre has its own "
        "threshold, fitted on other franchises than the scored ones. `recipe` and `recipe-tuned` are standard "
        "baselines. The head of a frozen network is finally fitted on the training and validation parts. The report of "
        "the training run has the figures of the test part.",
        "",
        f"| network | {' | '.join(f'{VALIDATION}/{name}' for name in SCALARS)} |",
        "| --- | --- | --- | --- | --- |",
        *(_row(network.name, network.validation) for network in (*outcome.networks, *outcome.recipes)),
        "",
        f"95 % interval of {VALIDATION}/mean_average_precision of the chosen network (bootstrap over franchises): "
        f"{precision.low:.3f} to {precision.high:.3f}.",
        "",
        "## Genres",
        "",
        "The Brier skill is how much better the probabilities are than always predicting the genre's share of the "
        "training posters: 1 is perfect, 0 no better.",
        "",
        f"| genre | posters | threshold | {VALIDATION}/f1 | {VALIDATION}/brier_skill |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {genre.genre} | {count} | {threshold:.3f} | {genre.f1:.3f} | {calibration.brier_skill:.3f} |"
            for genre, count, threshold, calibration in zip(
                chosen.validation.genres, dataset.labels.sum(0), chosen.thresholds, calibrations, strict=True
            )
        ),
        "",
        "## Intended use",
        "",
        "Suggesting genres for posters that have none yet, for sorting and browsing. Not for decisions about people, "
        "titles or money without human review.",
        "",
        "## Limits",
        "",
        "A poster shows genres imperfectly, so predictions are suggestions. Rare genres have few training posters and "
        "are often missed. Genres outside the list are never predicted. A picture that is not a poster gets a "
        "prediction, too. Lettering, logos and the fashion of a year influence predictions as much as the drawing.",
    ]
    return "\n".join(lines) + "\n"


def _weights(chosen: NetworkOutcome) -> tuple[str, ...]:
    """Source and licence of the pretrained weights, as lines of the card."""
    file = chosen.weights
    if file is None:
        return ()
    condition = file.condition()
    line = f"Pretrained weights: source {file.source}, licence {file.license}."
    return (f"{line} {condition}" if condition else line, "")


def _row(name: str, scores: Scores) -> str:
    values = scores.scalars()
    return f"| {name} | {' | '.join(f'{values[metric]:.3f}' for metric in SCALARS)} |"
