"""Folds of posters in which no franchise is in two, and each genre is about equally often in all."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Labels

FOLDS = 5


def stratified_folds(franchises: NDArray[np.str_], labels: Labels, folds: int = FOLDS) -> NDArray[np.int64]:
    """A fold a poster, [N], from franchises [N] and labels [N, G]; fewer folds where franchises are few.

    The largest franchise first, each goes to the fold that its genres bring nearest to an even share: the idea of
    Sechidis et al. 2011 (https://doi.org/10.1007/978-3-642-23808-6_10) for whole groups. Without it a fold with many
    posters of a genre leaves few for training, and scores pooled over folds suffer: each model is too sure of the
    genres that its own fold lacks. Ties are broken by hash, so the folds do not depend on the order of rows.
    """
    names, franchise = np.unique(franchises, return_inverse=True)
    count = max(min(folds, len(names)), 1)
    # Posters count like one more genre, so that folds are of about equal size.
    counts = np.zeros((len(names), labels.shape[1] + 1))
    np.add.at(counts, franchise, np.column_stack([labels, np.ones(len(labels))]))
    share = np.maximum(counts.sum(0) / count, 1)
    digests = [hashlib.sha256(name.encode()).digest() for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda group: (-counts[group].sum(), digests[group]))
    # Each is below 1 for as long as a fold lacks posters of a genre; the sum of squares falls fastest there.
    filled = np.zeros((count, counts.shape[1]))
    fold = np.empty(len(names), np.int64)
    for group in order:
        added = counts[group] / share
        cost = (added * (2 * (filled - 1) + added)).sum(1)
        fold[group] = int(cost.argmin())
        filled[fold[group]] += added
    chosen: NDArray[np.int64] = fold[franchise]
    return chosen
