"""Readouts of labels from features: linear, and by nearest neighbours. Accuracies are shares of 1."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

Features = Float[Tensor, "sample feature"]
Labels = Int[Tensor, " sample"]

NEIGHBOURS = 20
TEMPERATURE = 0.1  # of a neighbour's vote, exp(cos / temperature)
RIDGE = 1e-3  # of the readout's weights, added to the mean negative log-likelihood
ITERATIONS = 100
ROWS = 1024


def linear_probe(
    train: Features, labels: Labels, test: Float[Tensor, "other feature"], truth: Int[Tensor, " other"]
) -> float:
    """Accuracy of multinomial logistic regression on standardised features, fitted by L-BFGS on the training part.

    The loss is convex, and the start fixed: the result is not random.
    """
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    x, y = (train - mean) / std, (test - mean) / std
    classes = int(torch.cat([labels, truth]).max()) + 1
    W = x.new_zeros(x.shape[1], classes, requires_grad=True)
    b = x.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(x @ W + b, labels) + 0.5 * RIDGE * W.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[arg-type]
    return float(((y @ W + b).argmax(1) == truth).double().mean())


@torch.no_grad()
def knn_probe(
    train: Features, labels: Labels, test: Float[Tensor, "other feature"], truth: Int[Tensor, " other"]
) -> float:
    """Accuracy of a vote of the nearest training samples by cosine, weighted by nearness (Wu et al. 2018, 3.4)."""
    bank = normalize(train, dim=1)
    classes = int(torch.cat([labels, truth]).max()) + 1
    right = 0
    for rows, expected in zip(normalize(test, dim=1).split(ROWS), truth.split(ROWS), strict=True):
        near, index = (rows @ bank.mT).topk(min(NEIGHBOURS, len(bank)), dim=1)
        votes = rows.new_zeros(len(rows), classes).scatter_add_(1, labels[index], (near / TEMPERATURE).exp())
        right += int((votes.argmax(1) == expected).sum())
    return right / len(truth)
