"""Cross-validation folds: each franchise is in one fold, and each genre is about equally frequent in all folds."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Labels

FOLDS = 5


def stratified_folds(franchises: NDArray[np.str_], labels: Labels, folds: int = FOLDS) -> NDArray[np.int64]:
    """The fold of each poster, [N], from franchises [N] and labels [N, G]; fewer folds if there are fewer franchises.

    Franchises are assigned from the largest to the smallest, each to the fold where its genres are needed most: the
    method of Sechidis et al. 2011 (https://doi.org/10.1007/978-3-642-23808-6_10), applied to whole groups.
    scikit-learn's StratifiedGroupKFold takes no multi-label targets, and GroupKFold balances no genres. Without balance
    a fold with many posters of a genre leaves few for training, and scores pooled over folds become worse. Ties are
    broken by hash, so folds do not depend on the order of the posters.
    """
    names, franchise = np.unique(franchises, return_inverse=True)
    count = max(min(folds, len(names)), 1)
    # The number of posters counts like one more genre, so that folds have about equal sizes.
    counts = np.zeros((len(names), labels.shape[1] + 1))
    np.add.at(counts, franchise, np.column_stack([labels, np.ones(len(labels))]))
    share = np.maximum(counts.sum(0) / count, 1)
    digests = [hashlib.sha256(name.encode()).digest() for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda group: (-counts[group].sum(), digests[group]))
    # The filled share of each fold and genre. The best fold is the one whose squared distance from 1 falls most.
    filled = np.zeros((count, counts.shape[1]))
    fold = np.empty(len(names), np.int64)
    for group in order:
        added = counts[group] / share
        cost = (added * (2 * (filled - 1) + added)).sum(1)
        fold[group] = int(cost.argmin())
        filled[fold[group]] += added
    chosen: NDArray[np.int64] = fold[franchise]
    return chosen
