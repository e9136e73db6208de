"""Sums, maxima and softmax over the cells of each slide, on packed bags and without a loop over slides."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PRODUCT = 32
"""Mean number of cells a slide from which a product a slide is faster than one sum over all."""
Owner = Int[Tensor, " cell"]
"""The number of the slide that each cell belongs to."""


def exact(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values in float32 if they are in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def segment_sum(values: Float[Tensor, "cell *other"], owner: Owner, slides: int) -> Float[Tensor, "slide *other"]:
    """The sum over each slide's cells, in float32 at least: a long sum in half precision stands still."""
    values = exact(values)
    return values.new_zeros(slides, *values.shape[1:]).index_add(0, owner, values)


def segment_mean(values: Float[Tensor, "cell *other"], owner: Owner, slides: int) -> Float[Tensor, "slide *other"]:
    """The mean over each slide's cells."""
    cells = segment_sum(values.new_ones(len(values)), owner, slides)
    return segment_sum(values, owner, slides) / cells.reshape(-1, *[1] * (values.ndim - 1))


def segment_argmax(values: Float[Tensor, "cell other"], owner: Owner, slides: int) -> Int[Tensor, "slide other"]:
    """The row that holds each slide's largest value, per column; of equal ones the first."""
    index = owner[:, None].expand_as(values)
    with torch.no_grad():
        largest = values.new_full((slides, values.shape[1]), -torch.inf).scatter_reduce(0, index, values, "amax")
        rows = torch.arange(len(values), device=values.device)[:, None].expand_as(values)
        rows = rows.masked_fill(values < largest.index_select(0, owner), len(values))
        return rows.new_full(largest.shape, len(values)).scatter_reduce(0, index, rows, "amin")


def segment_max(values: Float[Tensor, "cell other"], owner: Owner, slides: int) -> Float[Tensor, "slide other"]:
    """The largest value of each slide, per column; the gradient goes to the first of equal ones."""
    return values.gather(0, segment_argmax(values, owner, slides))


def segment_softmax(scores: Float[Tensor, "cell other"], owner: Owner, slides: int) -> Float[Tensor, "cell other"]:
    """Positive weights that sum to 1 over each slide's cells, per column, in float32 at least."""
    scores = exact(scores)
    largest = segment_max(scores, owner, slides).detach()
    weights = (scores - largest.index_select(0, owner)).exp()
    return weights / segment_sum(weights, owner, slides).index_select(0, owner)


def attend(
    attention: Float[Tensor, "cell head"], values: Float[Tensor, "cell feature"], owner: Owner, slides: int
) -> Float[Tensor, "slide head feature"]:
    """The attention-weighted sum of the values over each slide's cells, per head.

    The cells of a slide MUST lie together, one slide after the other. Slides of many cells are matrix products, one a
    slide; where there are few cells a slide, one sum over all is faster.
    """
    if slides == 1:
        return (attention.T @ values)[None]
    if len(values) < PRODUCT * slides:
        return segment_sum(attention[:, :, None] * values[:, None, :], owner, slides)
    lengths = owner.bincount(minlength=slides).tolist()
    products = [share.T @ own for share, own in zip(attention.split(lengths), values.split(lengths), strict=True)]
    return torch.stack(products)


def segment_order(values: Float[Tensor, "cell other"], owner: Owner) -> Int[Tensor, "cell other"]:
    """Per column the rows of one slide after the other, and within a slide from its largest value; of equal ones the first."""
    by_value = values.argsort(dim=0, descending=True, stable=True)
    return by_value.gather(0, owner[by_value].argsort(dim=0, stable=True))
