"""Exercises of lesson F1: the loss on hidden patches, the loss on hidden features.

Shapes: N pictures; T patches, or tokens, of a picture; K of them hidden; D numbers in each.
"""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- masked_loss ------------------------------------------------------------------------------


def masked_loss(guess, patches, hidden):
    """The mean squared error over the hidden patches.

    guess and patches: (N, T, D) float32, what the network draws and what is true; hidden: (N, T)
    bool, True where a patch is hidden. The number of hidden patches may differ between pictures,
    and every hidden patch counts the same. At least one is hidden. Returns one number.
    """
    error = (guess - patches).square().mean(2)  # (N, T)
    return error[hidden].mean()


def _masked_cases(generator: torch.Generator) -> dict[str, tuple]:
    def pair(n, t, d):
        patches = torch.randn(n, t, d, generator=generator)
        # Errors of very different sizes, so that it counts how patches are weighed.
        size = torch.rand(n, t, 1, generator=generator) + torch.arange(1, n + 1).view(n, 1, 1) / n
        return patches + size * torch.randn(n, t, d, generator=generator), patches

    def hide(n, t, counts):
        order = torch.rand(n, t, generator=generator).argsort(1)
        return order < torch.tensor(counts)[:, None]

    return {
        "as many hidden in each picture": (*pair(4, 8, 12), hide(4, 8, [4, 4, 4, 4])),
        "numbers that differ": (*pair(3, 9, 6), hide(3, 9, [1, 4, 8])),
        "a picture of which nothing is hidden": (*pair(3, 6, 5), hide(3, 6, [0, 2, 5])),
        "one picture": (*pair(1, 16, 3), hide(1, 16, [12])),
        "a single patch hidden": (*pair(2, 4, 7), hide(2, 4, [1, 0])),
    }


def _masked_weighted(guess, patches, hidden):
    """As the code of He et al. has it: a mask of 0 and 1 in place of an index."""
    mask = hidden.float()
    error = ((guess - patches) ** 2).mean(dim=-1)
    return (error * mask).sum() / mask.sum()


def _masked_rows(guess, patches, hidden):
    return F.mse_loss(guess[hidden], patches[hidden])


def _masked_loops(guess, patches, hidden):
    errors = []
    for n in range(len(guess)):
        for t in range(guess.shape[1]):
            if hidden[n, t]:
                errors.append(((guess[n, t] - patches[n, t]) ** 2).mean())
    return sum(errors) / len(errors)


def _masked_where(guess, patches, hidden):
    difference = torch.where(hidden[..., None], guess - patches, 0.0).double()
    return difference.pow(2).sum() / (hidden.sum() * guess.shape[2])


def _masked_einsum(guess, patches, hidden):
    difference = guess - patches
    total = torch.einsum("ntd,ntd,nt->", difference, difference, hidden.to(guess.dtype))
    return total / (hidden.sum() * guess.shape[2])


def _masked_select(guess, patches, hidden):
    everywhere = hidden.unsqueeze(2).expand_as(guess)
    squares = F.mse_loss(guess, patches, reduction="none")
    return torch.masked_select(squares, everywhere).mean()


def _masked_all(guess, patches, hidden):
    """All patches count, also those that the network was shown."""
    return F.mse_loss(guess, patches)


def _masked_visible(guess, patches, hidden):
    """The visible patches count in place of the hidden ones."""
    shown = ~hidden
    error = (guess - patches).square().mean(2)
    return (error * shown).sum() / shown.sum()


def _masked_by_picture(guess, patches, hidden):
    """A mean for each picture, and then their mean: one of few patches weighs more by patch."""
    mask = hidden.float()
    error = (guess - patches).square().mean(2)
    return ((error * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def _masked_over_all(guess, patches, hidden):
    """The hidden errors are divided by the number of all patches."""
    error = (guess - patches).square().mean(2)
    return (error * hidden).mean()


def _masked_sum_of_numbers(guess, patches, hidden):
    """The squared errors of a patch are added, and not averaged."""
    error = (guess - patches).square().sum(2)
    return error[hidden].mean()


def _masked_sum(guess, patches, hidden):
    """The errors of the hidden patches are added, and not averaged."""
    return (guess - patches).square().mean(2)[hidden].sum()


def _masked_by_batch(guess, patches, hidden):
    """The sum is divided by the number of pictures."""
    return (guess - patches).square().mean(2)[hidden].sum() / len(guess)


def _masked_absolute(guess, patches, hidden):
    """Absolute differences in place of squares."""
    return (guess - patches).abs().mean(2)[hidden].mean()


def _masked_root(guess, patches, hidden):
    """The root of the mean squared error."""
    return (guess - patches).square().mean(2)[hidden].mean().sqrt()


def _masked_of_mean(guess, patches, hidden):
    """The numbers of a patch are averaged before they are squared, so errors cancel."""
    return (guess - patches).mean(2).square()[hidden].mean()


def _masked_zeros(guess, patches, hidden):
    """What is compared is the picture with its hidden patches set to 0."""
    shown = patches * ~hidden[..., None]
    return (guess - shown).square().mean(2)[hidden].mean()


MASKED_LOSS = Exercise(
    solution=masked_loss,
    cases=_masked_cases,
    gradient_of=(0,),
    difficulty=1,
    minutes=4,
    hints=(
        "First one number for each patch: the mean of its D squared differences, (N, T).",
        "x[hidden], with hidden of bools (N, T), keeps the rows where it is True.",
        "Every hidden patch counts the same: one mean over all of them, not one for each picture.",
    ),
    wrong={
        "all patches": _masked_all,
        "visible patches": _masked_visible,
        "mean for each picture": _masked_by_picture,
        "divided by all": _masked_over_all,
        "sum over numbers": _masked_sum_of_numbers,
        "sum over patches": _masked_sum,
        "divided by N": _masked_by_batch,
        "absolute": _masked_absolute,
        "root": _masked_root,
        "averaged before squared": _masked_of_mean,
        "hidden patches are 0": _masked_zeros,
    },
    alternatives=(
        _masked_weighted,
        _masked_rows,
        _masked_loops,
        _masked_where,
        _masked_einsum,
        _masked_select,
    ),
)


# --- feature_loss -----------------------------------------------------------------------------


def feature_loss(guess, tokens, hidden):
    """The mean squared error between guesses and the target network's tokens.

    guess: (N, K, D) float32, for the K hidden places of each picture; tokens: (N, T, D) float32, of
    the target network, at all places; hidden: (N, K) int64, which place each guess is for. Each
    target token is standardized over its D numbers: less their mean, divided by the root of their
    variance (divisor D) plus 1e-5. The targets are constants, and get no gradient. Returns one
    number.
    """
    targets = F.layer_norm(tokens.detach(), tokens.shape[2:])
    places = hidden[..., None].expand(-1, -1, tokens.shape[2])  # (N, K, D)
    return F.mse_loss(guess, targets.gather(1, places))


def _feature_cases(generator: torch.Generator) -> dict[str, tuple]:
    def random(n, t, k, d, *, scale=1.0, shift=0.0):
        tokens = shift + scale * torch.randn(n, t, d, generator=generator)
        hidden = torch.rand(n, t, generator=generator).argsort(1)[:, :k]
        return torch.randn(n, k, d, generator=generator), tokens, hidden

    return {
        "half of the patches hidden": random(4, 8, 4, 6),
        "most of them hidden": random(3, 9, 8, 5),
        "tokens that are long and far from 0": random(3, 6, 3, 8, scale=3.0, shift=2.0),
        "short tokens": random(2, 7, 4, 4, scale=0.1),
        "one picture, as many places as numbers": random(1, 6, 4, 4),
    }


def _standardized(tokens):
    centered = tokens - tokens.mean(2, keepdim=True)
    return centered / (centered.square().mean(2, keepdim=True) + 1e-5).sqrt()


def _at(tokens, hidden):
    return tokens[torch.arange(len(tokens))[:, None], hidden]


def _feature_without_grad(guess, tokens, hidden):
    with torch.no_grad():
        targets = _at(_standardized(tokens), hidden)
    return (guess - targets).square().mean()


def _feature_detached_last(guess, tokens, hidden):
    targets = F.layer_norm(_at(tokens, hidden), (tokens.shape[-1],), eps=1e-5).detach()
    return ((guess - targets) ** 2).sum() / guess.numel()


def _feature_loops(guess, tokens, hidden):
    total = 0.0
    for n, places in enumerate(hidden.tolist()):
        for k, place in enumerate(places):
            token = tokens[n, place].detach()
            token = (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()
            total = total + ((guess[n, k] - token) ** 2).mean()
    return total / hidden.numel()


def _feature_take_along(guess, tokens, hidden):
    tokens = tokens.detach().double()
    var, mean = torch.var_mean(tokens, dim=2, keepdim=True, correction=0)
    targets = torch.take_along_dim((tokens - mean) / (var + 1e-5).sqrt(), hidden[..., None], dim=1)
    return F.mse_loss(guess.double(), targets)


def _feature_by_numpy_targets(guess, tokens, hidden):
    x = tokens.detach().numpy()
    x = (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-5)
    x = np.take_along_axis(x, hidden.numpy()[..., None], axis=1)
    return (guess - torch.from_numpy(x)).pow(2).mean()


def _feature_one_hot(guess, tokens, hidden):
    layer = torch.nn.LayerNorm(tokens.shape[2], elementwise_affine=False)
    choice = F.one_hot(hidden, tokens.shape[1]).to(tokens.dtype)  # (N, K, T)
    return F.mse_loss(guess, (choice @ layer(tokens)).detach())


def _feature_gradient_to_target(guess, tokens, hidden):
    """The targets get a gradient, too: nothing stops it."""
    return F.mse_loss(guess, _at(_standardized(tokens), hidden))


def _feature_wrong_side_stopped(guess, tokens, hidden):
    """The gradient is stopped at the guess in place of the target."""
    return F.mse_loss(guess.detach(), _at(_standardized(tokens), hidden))


def _feature_no_norm(guess, tokens, hidden):
    """The targets are not standardized."""
    return F.mse_loss(guess, _at(tokens.detach(), hidden))


def _feature_both_norm(guess, tokens, hidden):
    """The guesses are standardized, too."""
    return F.mse_loss(_standardized(guess), _at(_standardized(tokens.detach()), hidden))


def _feature_norm_over_tokens(guess, tokens, hidden):
    """The targets are standardized over the places of a picture, not over the D numbers."""
    targets = _standardized(tokens.detach().transpose(1, 2)).transpose(1, 2)
    return F.mse_loss(guess, _at(targets, hidden))


def _feature_norm_over_batch(guess, tokens, hidden):
    """The targets are standardized over the pictures, as batch normalization does it."""
    x = tokens.detach().flatten(0, 1)
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    return F.mse_loss(guess, _at(x.view_as(tokens), hidden))


def _feature_unit_length(guess, tokens, hidden):
    """The targets are scaled to length 1, and not standardized."""
    return F.mse_loss(guess, _at(F.normalize(tokens.detach(), dim=2), hidden))


def _feature_first_places(guess, tokens, hidden):
    """The first K places count, whatever `hidden` says."""
    return F.mse_loss(guess, _standardized(tokens.detach())[:, : guess.shape[1]])


def _feature_same_for_all(guess, tokens, hidden):
    """The places of the first picture are used for all pictures."""
    return F.mse_loss(guess, _standardized(tokens.detach())[:, hidden[0]])


def _feature_sorted_places(guess, tokens, hidden):
    """The places are put in order, so that a guess meets another place's token."""
    return F.mse_loss(guess, _at(_standardized(tokens.detach()), hidden.sort(dim=1).values))


def _feature_sum_of_numbers(guess, tokens, hidden):
    """The squared errors of a token are added, and not averaged."""
    targets = _at(_standardized(tokens.detach()), hidden)
    return (guess - targets).square().sum(2).mean()


def _feature_absolute(guess, tokens, hidden):
    """Absolute differences in place of squares."""
    return F.l1_loss(guess, _at(_standardized(tokens.detach()), hidden))


def _feature_smooth(guess, tokens, hidden):
    """The smooth absolute loss, which the code of Assran et al. uses; their paper has squares."""
    return F.smooth_l1_loss(guess, _at(_standardized(tokens.detach()), hidden))


FEATURE_LOSS = Exercise(
    solution=feature_loss,
    cases=_feature_cases,
    gradient_of=(0, 1),
    difficulty=2,
    minutes=6,
    hints=(
        "tokens.detach() is tokens without their history: no gradient gets through.",
        "F.layer_norm(x, x.shape[2:]) standardizes over the last axis.",
        "tokens[n, hidden[n]] are the hidden tokens of picture n. For all pictures at once: "
        "tokens[torch.arange(N)[:, None], hidden], or gather.",
    ),
    wrong={
        "no stop-gradient": _feature_gradient_to_target,
        "stopped on the wrong side": _feature_wrong_side_stopped,
        "not standardized": _feature_no_norm,
        "both standardized": _feature_both_norm,
        "standardized over places": _feature_norm_over_tokens,
        "standardized over the batch": _feature_norm_over_batch,
        "unit length": _feature_unit_length,
        "first places": _feature_first_places,
        "places of the first picture": _feature_same_for_all,
        "sorted places": _feature_sorted_places,
        "sum over numbers": _feature_sum_of_numbers,
        "absolute": _feature_absolute,
        "smooth": _feature_smooth,
    },
    alternatives=(
        _feature_without_grad,
        _feature_detached_last,
        _feature_loops,
        _feature_take_along,
        _feature_by_numpy_targets,
        _feature_one_hot,
    ),
)

EXERCISES = [MASKED_LOSS, FEATURE_LOSS]
