"""Average precision, by both definitions of Pascal VOC."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

_RECALLS = 11


def average_precisions(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[float, float]:
    """The 11-point and the all-point average precision, each 0 to 1.

    Precision at a recall is the highest at that recall or a higher one. The first definition
    (VOC 2007) averages it over the recalls 0, 0.1, …, 1; the second (from VOC 2010 on) integrates
    it over all recalls. Images of equal scores are taken together.

    Args:
      positive: (n,), at least one of them true.
      scores: (n,), higher where an image is more likely positive.
    Source: Everingham et al. 2010, section 4.2, and the development kits of 2007 and 2010.
    """
    precision, recall, _ = precision_recall_curve(positive, scores)
    # By falling recall: the last point is (recall 0, precision 1), which no threshold reaches.
    precision, recall = precision[:-1][::-1], recall[:-1][::-1]
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, _RECALLS) - 1e-12)
    eleven = float(np.mean(highest[np.minimum(places, len(highest) - 1)]))
    every = float(np.sum(np.diff(recall, prepend=0.0) * highest))
    return eleven, every
